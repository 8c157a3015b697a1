"""A search with real worker processes: exact counts, and nothing is lost to a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from toy_search import DEFAULTS, toy

from genforge.processes import Identity
from genforge.search.plan import Found, Plan
from genforge.search.run import run_search
from genforge.search.storage import STORAGE_VARIABLE
from genforge.search.tickets import Tickets
from genforge.settings import UserError
from tests.postgresql import PostgreSQL, running
from tests.waiting import wait_for


def calls(tmp_path: Path) -> list[list[str]]:
    log = tmp_path / "calls.txt"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def test_three_workers_make_exactly_as_many_trials_as_asked(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=10, company=3)
    found = run_search(plan, tmp_path / "search", workers=3)
    assert [row.number for row in found.rows] == list(range(10))
    assert Counter(number for number, _ in calls(tmp_path)) == Counter(str(number) for number in range(10))
    assert len({process for _, process in calls(tmp_path)}) == 3
    assert Tickets(plan, tmp_path / "search").count() == {"waiting": 0, "running": 0, "finished": 10}


def test_a_finished_search_does_nothing_when_asked_again(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=3)
    found = run_search(plan, tmp_path / "search", workers=1)
    assert found.rows[0].settings == DEFAULTS and found.best in found.rows
    assert run_search(plan, tmp_path / "search", workers=1) == found
    assert len(calls(tmp_path)) == 3


@pytest.mark.slow
def test_workers_that_cannot_start_are_told_with_their_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a library that is not installed"):
        run_search(toy("unusable", tmp_path), tmp_path / "search", workers=1)


def test_a_search_whose_trials_all_fail_says_why(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=2).model_copy(update={"arguments": {}})
    with pytest.raises(UserError, match="trial 0: KeyError: 'log'"):
        run_search(plan, tmp_path / "search", workers=1)


@pytest.mark.slow
def test_killed_workers_and_a_killed_supervisor_lose_nothing_and_trials_go_on(storage: str, tmp_path: Path) -> None:
    plan = toy("steps", tmp_path, trials=4, seconds=0.2)
    supervisor = start(RUN, plan, tmp_path)
    try:
        # A worker is killed in the middle of a trial; the supervisor sends another.
        os.kill(under_way(plan, tmp_path), signal.SIGKILL)
        with pytest.raises(UserError, match="only one process may search"):
            run_search(plan, tmp_path / "search", workers=1)
        wait_for(lambda: resumed(tmp_path))
        under_way(plan, tmp_path)
        workers = [Identity.of(child.pid) for child in psutil.Process(supervisor.pid).children(recursive=True)]
        assert workers
    finally:
        supervisor.kill()
        supervisor.wait()

    # Then the supervisor: no worker stays behind, and the next one goes on.
    wait_for(lambda: all(worker is None or worker.is_gone() for worker in workers))
    before = resumed(tmp_path)
    found = run_search(plan, tmp_path / "search", workers=2)
    assert resumed(tmp_path) > before >= 1
    check_steps(plan, tmp_path, found)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "postgresql"], indirect=True)
def test_sixteen_workers_start_at_once_on_an_empty_storage(storage: str, tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=20)
    script = (
        "import multiprocessing; from genforge.search.worker import work; import toy_search\n"
        "context = multiprocessing.get_context('fork'); together = context.Barrier(16)\n"
        "def one():\n"
        "    together.wait()\n"
        "    work(Tickets(plan, folder), toy_search.bowl(plan.arguments))\n"
        "crew = [context.Process(target=one) for _ in range(16)]\n"
        "[worker.start() for worker in crew]; [worker.join() for worker in crew]\n"
        "assert [worker.exitcode for worker in crew] == [0] * 16\n"
    )
    assert start(script, plan, tmp_path).wait(600) == 0
    assert Counter(number for number, _ in calls(tmp_path)) == Counter(str(number) for number in range(20))
    study = optuna.load_study(study_name="toy/search", storage=Tickets(plan, tmp_path / "search").store.storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 20  # none more, none twice


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = toy("steps", tmp_path, trials=4, seconds=0.2)
    said: list[str] = []
    monkeypatch.setattr("genforge.search.patience.say", said.append)  # the supervisor's words; workers have logs
    away = "the search's database is away (OperationalError); waiting up to 600 s"
    with running() as server:
        monkeypatch.setenv(STORAGE_VARIABLE, server.database())

        def crash() -> None:
            wait_for(_said_more(tmp_path))
            server.kill()
            time.sleep(0.5)  # shorter than anybody would say a word about
            server.start()
            wait_for(_said_more(tmp_path))
            server.kill()
            wait_for(lambda: any(away in words for words in said))
            server.start()

        crasher = threading.Thread(target=crash)
        crasher.start()
        found = run_search(plan, tmp_path / "search", workers=2)
        crasher.join()
        check_steps(plan, tmp_path, found)
        assert sorted(words for words in calls(tmp_path) if words[1] == "from") == [
            [str(number), "from", "0"] for number in range(4)
        ]  # no worker was lost
    assert any(away in words for words in said) and any("is back after" in words for words in said)


@pytest.mark.slow
def test_two_machines_share_a_search_and_a_stopped_one_loses_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql: PostgreSQL
) -> None:
    """The other machine is a process that has another host's name. It is stopped, as a machine that hangs."""
    monkeypatch.setenv(STORAGE_VARIABLE, postgresql.database())
    plan = toy("steps", tmp_path, trials=2, seconds=0.1).model_copy(update={"lease": 2.0})
    elsewhere = (
        "import socket; socket.gethostname = lambda: 'elsewhere'\n"
        "import toy_search; from genforge.search.worker import work\n"
        "work(Tickets(plan, folder), toy_search.steps(plan.arguments))\n"
    )
    other = start(elsewhere, plan, tmp_path, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: ["0", "1"] in calls(tmp_path))
        other.send_signal(signal.SIGSTOP)
        found = run_search(plan, tmp_path / "search", workers=1)
        check_steps(plan, tmp_path, found)
        assert resumed(tmp_path) == 1
        other.send_signal(signal.SIGCONT)
        _, said = other.communicate(timeout=400)
        assert other.returncode == 0 and b"trial 0 is given up" in said
    finally:
        other.kill()
        other.wait()
    assert run_search(plan, tmp_path / "search", workers=1) == found


@pytest.mark.slow
def test_supervisors_of_several_machines_share_the_work_and_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql: PostgreSQL
) -> None:
    """Each has a disk of its own, and one worker; the trials are neither more nor fewer."""
    monkeypatch.setenv(STORAGE_VARIABLE, postgresql.database())
    plan = toy("bowl", tmp_path, trials=8, company=2)
    other = start(RUN.replace("workers=2", "workers=1"), plan, tmp_path)
    found = run_search(plan, tmp_path / "mine" / "search", workers=1)
    assert other.wait(600) == 0
    assert found == run_search(plan, tmp_path / "search", workers=1)
    assert Counter(number for number, _ in calls(tmp_path)) == Counter(str(number) for number in range(8))
    assert len({process for _, process in calls(tmp_path)}) == 2


RUN = "from genforge.search.run import run_search; run_search(plan, folder, workers=2)"


def start(script: str, plan: Plan, tmp_path: Path, **arguments: Any) -> subprocess.Popen[bytes]:
    """A process of its own that runs a script, with `plan`, `folder` and `Tickets` at hand."""
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    head = (
        "import sys; from pathlib import Path; from genforge.search.plan import Plan; "
        "from genforge.search.tickets import Tickets; "
        "plan = Plan.model_validate_json(Path(sys.argv[1]).read_text()); folder = Path(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", head + script, str(tmp_path / "plan.json"), str(tmp_path / "search")]
    return subprocess.Popen(command, **arguments)


def check_steps(plan: Plan, tmp_path: Path, found: Found) -> None:
    """Every trial is there, whole, once; none is left running; and no attempt did a step again that had been kept."""
    assert [(row.number, row.state, row.value) for row in found.rows] == [
        (number, "complete", float(number)) for number in range(plan.trials)
    ]
    assert all(row.reports == {step: 1.0 / step for step in range(1, 11)} for row in found.rows)
    states = Tickets(plan, tmp_path / "search")._study.get_trials(deepcopy=False)
    assert Counter(trial.state.name for trial in states if trial.state.name != "FAIL") == {"COMPLETE": plan.trials}
    assert not list((tmp_path / "search").glob("trial-*"))
    done = dict.fromkeys(map(str, range(plan.trials)), 0)
    for words in calls(tmp_path):
        if words[1] == "from":
            assert int(words[2]) >= done[words[0]]
        else:
            assert int(words[1]) > done[words[0]]
            done[words[0]] = int(words[1])
    assert set(done.values()) == {10}


def under_way(plan: Plan, tmp_path: Path) -> int:
    """Wait for a trial with some steps done and some to do. Returns the id of its worker's process."""
    wait_for((tmp_path / "calls.txt").exists)
    study, found = Tickets(plan, tmp_path / "search")._study, []

    def look() -> bool:
        running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        found.extend(trial for trial in running if 2 <= len(trial.intermediate_values) <= 6)
        return bool(found)

    wait_for(look)
    return int(found[0].user_attrs["worker"]["pid"])


def resumed(tmp_path: Path) -> int:
    """How many attempts began with a checkpoint."""
    return sum(words[1] == "from" and words[2] != "0" for words in calls(tmp_path))


def _said_more(tmp_path: Path) -> Callable[[], bool]:
    """Whether the trials got three steps further since this was made."""
    before = len(calls(tmp_path))
    return lambda: len(calls(tmp_path)) >= before + 3


def test_a_storage_out_of_reach_is_told_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, "nosuchdialect://user:hunter2@host/db")
    with pytest.raises(UserError, match=STORAGE_VARIABLE) as caught:
        run_search(toy("bowl", tmp_path), tmp_path / "search", workers=1)
    assert "hunter2" not in str(caught.value)
