"""A search with real worker processes: exact counts, and nothing is lost to a kill."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy_search import DEFAULTS, toy

from genforge.search.run import run_search
from genforge.search.storage import STORAGE_VARIABLE
from genforge.search.tickets import MOST_DEATHS, Tickets
from genforge.settings import UserError


def calls(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "calls.txt").read_text().splitlines()]


def test_three_workers_make_exactly_as_many_trials_as_asked(storage: str, tmp_path: Path) -> None:
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


def test_killed_workers_lose_nothing_and_their_trials_go_on(storage: str, tmp_path: Path) -> None:
    plan = toy("killed", tmp_path, trials=4)
    found = run_search(plan, tmp_path / "search", workers=2)
    assert [(row.number, row.state, row.value) for row in found.rows] == [(n, "complete", n) for n in range(4)]
    assert Tickets(plan, tmp_path / "search").count() == {"waiting": 0, "running": 0, "finished": 4}
    fresh = {number: rate for number, kind, rate in calls(tmp_path) if kind == "fresh"}
    resumed = {number: rate for number, kind, rate in calls(tmp_path) if kind == "resumed"}
    assert set(fresh) == {"0", "1", "2", "3"}  # each begun once
    assert resumed == {number: fresh[number] for number in ("0", "2")}  # with the settings that it had
    assert found.rows[2].reports == {1: 0.5, 2: 0.25}  # the report before the kill was kept
    assert not list((tmp_path / "search").glob("trial-*"))


@pytest.mark.slow
def test_a_trial_that_kills_every_worker_fails_and_the_rest_go_on(tmp_path: Path) -> None:
    found = run_search(toy("deadly", tmp_path, trials=3), tmp_path / "search", workers=3)
    assert [row.state for row in found.rows] == ["complete", "failed", "complete"]
    assert found.rows[1].reason == f"its worker was killed {MOST_DEATHS} times in a row"


@pytest.mark.slow
def test_workers_that_cannot_start_are_told_with_their_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a library that is not installed"):
        run_search(toy("unusable", tmp_path), tmp_path / "search", workers=1)


def test_a_search_whose_trials_all_fail_says_why(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=2).model_copy(update={"arguments": {}})
    with pytest.raises(UserError, match="trial 0: KeyError: 'log'"):
        run_search(plan, tmp_path / "search", workers=1)


@pytest.mark.slow
def test_workers_end_with_their_supervisor_and_the_next_one_takes_over(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=3, seconds=1.5)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    script = (
        "import sys; from pathlib import Path; from genforge.search.plan import Plan; "
        "from genforge.search.run import run_search; "
        "run_search(Plan.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), workers=2)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "plan.json"), str(tmp_path / "search")])
    try:
        _wait_for((tmp_path / "calls.txt").exists, seconds=60)
        workers = psutil.Process(supervisor.pid).children()
        with pytest.raises(UserError, match="only one process may search"):
            run_search(plan, tmp_path / "search", workers=1)
    finally:
        supervisor.kill()
        supervisor.wait()
    _wait_for(lambda: not any(worker.is_running() for worker in workers), seconds=5)
    found = run_search(plan, tmp_path / "search", workers=2)
    assert [row.state for row in found.rows] == ["complete"] * 3
    assert found.rows[0].settings == DEFAULTS


def test_a_storage_out_of_reach_is_told_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, "nosuchdialect://user:hunter2@host/db")
    with pytest.raises(UserError, match=STORAGE_VARIABLE) as caught:
        run_search(toy("bowl", tmp_path), tmp_path / "search", workers=1)
    assert "hunter2" not in str(caught.value)


def _wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
