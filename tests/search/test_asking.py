"""Workers that ask for settings side by side: each hears of the others, and none holds them up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy_search
from filelock import FileLock
from toy_search import toy

from genforge.processes import Identity
from genforge.search.plan import Plan
from genforge.search.suggestion import load, suggest
from genforge.search.tickets import Tickets
from genforge.search.worker import work


def test_what_is_suggested_side_by_side_knows_of_each_other(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is chosen with the settings of those that were claimed before it, though none of them has a value yet."""
    plan = toy("bowl", tmp_path, trials=4)
    opened = [Tickets(plan, tmp_path / "search") for _ in range(4)]
    opened[0].fill()
    chosen: list[tuple[int, set[int]]] = []

    def slow(plan: Plan, trials: Iterable[optuna.trial.FrozenTrial], number: int) -> dict[str, Any]:
        known = list(trials)
        time.sleep(0.3)  # all of them are at it by now
        chosen.append((number, {trial.user_attrs["ticket"] for trial in known if trial.params}))
        return suggest(plan, known, number)

    monkeypatch.setattr("genforge.search.tickets.suggest", slow)
    with ThreadPoolExecutor(len(opened)) as pool:
        claimed = list(pool.map(lambda tickets: tickets.claim(Identity.own()), opened))
    assert {trial.number for trial in claimed if trial is not None} == {0, 1, 2, 3}
    numbers = [number for number, _ in chosen]
    for place, (_, known) in enumerate(chosen):
        assert set(numbers[:place]) <= known


def test_nobody_waits_while_another_one_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that suggests by itself wants SciPy: with four such workers the last would wait for three imports."""
    plan = toy("bowl", tmp_path, trials=6).model_copy(update={"method": "gaussian-process"})
    imported: list[str] = []

    def free() -> None:
        load()
        with FileLock(tmp_path / "search" / "tickets.lock", timeout=0.0):
            imported.append("scipy")

    monkeypatch.setattr("genforge.search.tickets.load", free)
    assert [plan.wants_scipy(number) for number in range(6)] == [False] * 2 + [True] * 4
    tickets = Tickets(plan, tmp_path / "search")
    tickets.fill()
    work(tickets, toy_search.bowl(plan.arguments))
    assert len(imported) == 4


ASKING = (
    "import sys, time; from pathlib import Path; from genforge.search.storage import Store\n"
    "with Store(Path(sys.argv[1])).alone(): print('asking', flush=True); time.sleep(600)\n"
)


def test_a_worker_that_is_stopped_while_it_asks_is_waited_for_no_longer_than_it_takes(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = Tickets(toy("bowl", tmp_path, trials=2), tmp_path / "search")
    tickets.fill()
    command = [sys.executable, "-c", ASKING, str(tmp_path / "search")]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "asking\n"
        other.send_signal(signal.SIGSTOP)
        monkeypatch.setattr("genforge.search.tickets.SECONDS_TO_ASK", 0.5)
        began = time.monotonic()
        claimed = [tickets.claim(Identity.own()), tickets.claim(Identity.own())]
        assert 0.5 <= time.monotonic() - began < 30
        assert [trial.number for trial in claimed if trial is not None] == [0, 1]
        assert other.poll() is None  # it holds the lock all the time
    finally:
        other.kill()
        other.communicate()


def test_workers_that_ask_at_once_get_other_settings(tmp_path: Path) -> None:
    tickets = Tickets(toy("bowl", tmp_path, trials=16), tmp_path / "search")
    tickets.fill()
    for value in (3.0, 2.0, 0.5, 1.0):
        trial = tickets.claim(Identity.own())
        assert trial is not None
        tickets.complete(trial, value)
    running = [tickets.claim(Identity.own()) for _ in range(8)]
    assert len({trial.settings["rate"] for trial in running if trial is not None}) == 8
