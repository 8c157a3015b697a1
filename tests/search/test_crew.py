"""The workers of a search, the process that they are forked from, and the one that suggests for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import toy_search
from optuna.trial import TrialState
from toy_search import toy

from genforge.processes import Identity
from genforge.search.crew import OF_THREADS, Crew, log_of
from genforge.search.plan import Plan, Row
from genforge.search.run import run_search
from genforge.search.suggester import Line, serve
from genforge.search.tickets import Tickets
from genforge.search.worker import work
from tests.waiting import wait_for


def following(objective: str, tmp_path: Path, **arguments: Any) -> Plan:
    """Six trials, of which the last four have a Gaussian process's settings."""
    plan = toy(objective, tmp_path, trials=6, **arguments).model_copy(update={"method": "gaussian-process"})
    assert [plan.wants_scipy(number) for number in range(6)] == [False] * 2 + [True] * 4
    return plan


def settings(rows: list[Row]) -> list[Mapping[str, Any]]:
    return [row.settings for row in rows]


@pytest.fixture(scope="module")
def suggested_alone(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, Any]]:
    """The settings of a worker that has no suggester."""
    folder = tmp_path_factory.mktemp("alone")
    tickets = Tickets(following("bowl", folder), folder / "search")
    tickets.fill()
    work(tickets, toy_search.bowl(tickets.plan.arguments))
    return settings(tickets.rows())


def test_workers_need_no_scipy_and_get_what_they_would_suggest_themselves(
    suggested_alone: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    found = run_search(following("bowl_without_scipy", tmp_path), tmp_path / "search", workers=1)
    assert [row.reason for row in found.rows] == [""] * 6
    assert settings(found.rows) == suggested_alone


def fork_servers() -> list[psutil.Process]:
    """Those of this process, which has servers of other tests beside them."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "genforge.search.fork_server" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.slow
def test_a_suggester_that_is_killed_again_and_again_costs_nothing_but_time(
    suggested_alone: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    plan, killed = following("bowl", tmp_path, seconds=0.5), []

    def kill() -> None:
        log, deadline = tmp_path / "calls.txt", time.monotonic() + 300
        while len(killed) < 3 and time.monotonic() < deadline:
            workers = {int(line.split()[1]) for line in log.read_text().splitlines()} if log.exists() else set()
            for server in fork_servers() if workers else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    for other in server.children():
                        if other.pid not in workers | set(killed):
                            other.kill()
                            killed.append(other.pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    found = run_search(plan, tmp_path / "search", workers=1)
    killer.join()
    assert len(killed) == 3  # the fork server gives up, and the worker suggests by itself
    assert settings(found.rows) == suggested_alone


def test_what_is_imported_before_the_forks_starts_no_thread_and_touches_no_gpu() -> None:
    code = (
        "import os, genforge.search.fork_server, genforge.search.tickets, genforge.steps.search_trial, torch\n"
        "print(len(os.listdir('/proc/self/task')), torch.cuda.is_initialized())"
    )
    environment = {**os.environ, **dict.fromkeys(OF_THREADS, "1")}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "False"]


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew("toy_search:bowl", threads=3) as started:
        yield started


def ends(crew: Crew) -> dict[int, int]:
    """Statuses of all workers, when all have ended."""
    found: dict[int, int] = {}
    wait_for(lambda: found.update(crew.ended()) or not crew.working)
    return found


def test_each_worker_has_its_own_log_its_threads_and_its_end(crew: Crew, tmp_path: Path) -> None:
    for index, objective in enumerate(("surroundings", "unusable", "killed")):
        Tickets(plan := toy(objective, tmp_path, trials=1), tmp_path / objective).fill()
        crew.start(plan, tmp_path / objective, index)
    assert crew.working == {0, 1, 2}
    assert ends(crew) == {0: 0, 1: 1, 2: -signal.SIGKILL}
    assert log_of(tmp_path / "surroundings", 0).read_text() == "threads 3 3 3, standard input ''\n"
    assert "a library that is not installed" in log_of(tmp_path / "unusable", 1).read_text()


def test_none_is_left_though_one_does_not_hear(crew: Crew, tmp_path: Path) -> None:
    plan = toy("deaf", tmp_path, trials=1)
    Tickets(plan, tmp_path / "search").fill()
    crew.start(plan, tmp_path / "search", 0)
    log = tmp_path / "calls.txt"
    wait_for(lambda: log.exists() and log.read_text())
    worker = Identity.of(int(log.read_text().split()[1]))
    assert worker is not None and not worker.is_gone()
    crew.close()
    assert worker.is_gone() and not crew.working
    assert not fork_servers()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_fork_server_and_others_can_be_started(
    sent: signal.Signals, crew: Crew, tmp_path: Path
) -> None:
    plan = toy("bowl", tmp_path, trials=2, company=2)  # the first waits for a second
    folder = tmp_path / "search"
    Tickets(plan, folder).fill()
    crew.start(plan, folder, 0)
    wait_for((tmp_path / "calls.txt").exists)
    (server,) = fork_servers()
    server.send_signal(sent)
    assert set(ends(crew)) == {0}
    assert run_search(plan, folder, workers=2, crew=crew).best.state == "complete"


def test_what_cannot_be_imported_is_told(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=1).model_copy(update={"objective": "nowhere_to_be_found:bowl"})
    with pytest.raises(RuntimeError, match="No module named 'nowhere_to_be_found'"):
        run_search(plan, tmp_path / "search", workers=1)


def test_who_is_not_answered_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    asked = line.asked()

    def answer(how: Callable[[Any], object]) -> bool:
        """What is said to a worker whose question meets this."""
        hearer = threading.Thread(target=lambda: how(next(asked)[2]), daemon=True)
        hearer.start()
        told = line.ask(1, 2)
        hearer.join()
        return told

    assert answer(lambda back: (back.send(b"+"), back.close()))
    assert not answer(lambda back: back.close())  # as when the suggester is killed
    monkeypatch.setattr("genforge.search.suggester.SECONDS_TO_ANSWER", 0.05)
    assert not answer(lambda back: time.sleep(0.1))  # as when it is stopped
    line.only_ask()
    assert not line.ask(1, 2)  # there is none


def test_a_suggester_outlives_what_it_cannot_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trial that was taken from its worker meanwhile."""
    plan, line = following("bowl", tmp_path), Line()
    tickets = Tickets(plan, tmp_path / "search", ask=line.ask)
    server = threading.Thread(target=lambda: serve(line, Tickets(plan, tmp_path / "search")), daemon=True)
    server.start()
    tickets.fill()
    for _ in range(2):
        trial = tickets.claim(Identity.own())
        assert trial is not None
        tickets.complete(trial, 1.0)
    taken = tickets.store.storage.get_all_trials(0, states=(TrialState.WAITING,))[0]
    tickets.store.storage.set_trial_state_values(taken._trial_id, TrialState.FAIL)
    assert not line.ask(taken._trial_id, 2) and "UpdateFinishedTrialError" in capsys.readouterr().err
    trial = tickets.claim(Identity.own())
    assert trial is not None and trial.number == 3 and trial.settings.keys() == plan.space.keys()
    line.only_hear()
    server.join()
