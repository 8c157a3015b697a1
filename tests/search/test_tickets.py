"""Tickets, claimed by a worker's own loop in this process: suggestions, pruning, failures, directions, storages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy_search
from toy_search import DEFAULTS, toy

from genforge.search.plan import Plan, Row
from genforge.search.tickets import Tickets
from genforge.search.worker import work


def run(plan: Plan, folder: Path) -> Tickets:
    """The whole search by one worker, without processes."""
    tickets = Tickets(plan, folder)
    tickets.fill()
    work(tickets, getattr(toy_search, plan.objective.partition(":")[2])(plan.arguments))
    return tickets


def settings(rows: list[Row]) -> list[dict[str, Any]]:
    return [dict(row.settings) for row in rows]


def test_one_worker_is_reproducible_and_begins_with_the_defaults(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path)
    first, again = (run(plan, tmp_path / name).rows() for name in ("one", "two"))
    assert settings(first) == settings(again)
    assert first[0].settings == DEFAULTS
    assert len({row.settings["rate"] for row in first}) == 6


def test_another_seed_suggests_other_settings(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=2)
    other = plan.model_copy(update={"seed": 4})
    assert settings(run(plan, tmp_path / "a").rows())[1] != settings(run(other, tmp_path / "b").rows())[1]


def test_a_search_made_longer_goes_on_from_what_it_has(tmp_path: Path) -> None:
    run(toy("bowl", tmp_path, trials=3), tmp_path / "search")
    rows = run(toy("bowl", tmp_path, trials=5), tmp_path / "search").rows()
    assert [row.number for row in rows] == [0, 1, 2, 3, 4]
    calls = [line.split()[0] for line in (tmp_path / "calls.txt").read_text().splitlines()]
    assert calls == ["0", "1", "2", "3", "4"]  # each once, over both


def test_a_search_gets_near_the_bottom_of_a_bowl(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=30)
    tickets = run(plan, tmp_path / "search")
    best = plan.best(tickets.rows())
    assert best is not None and best.value is not None and best.value < 0.03  # the defaults: 0.38
    importances, note = tickets.importances()
    assert sum(importances.values()) == pytest.approx(1.0) and not note
    assert set(importances) == set(DEFAULTS)


def test_a_bad_setting_is_pruned_and_the_defaults_never(tmp_path: Path) -> None:
    rows = run(toy("falling", tmp_path, trials=10), tmp_path / "search").rows()
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned and all(len(row.reports) < 4 and row.value is not None for row in pruned)
    assert rows[0].state == "complete" and len(rows[0].reports) == 4


def test_nothing_is_pruned_before_the_warm_up_ends(tmp_path: Path) -> None:
    plan = toy("falling", tmp_path, trials=10).model_copy(update={"warmup": 3})
    pruned = [row for row in run(plan, tmp_path / "search").rows() if row.state == "pruned"]
    assert pruned and all(len(row.reports) >= 3 for row in pruned)


def test_what_is_not_finite_is_a_failed_trial_with_its_reason(tmp_path: Path) -> None:
    plan = toy("sometimes_not_finite", tmp_path, trials=5, better="higher")
    rows = run(plan, tmp_path / "search").rows()
    assert [row.state for row in rows] == ["complete", "failed", "failed", "failed", "complete"]
    assert rows[1].reason == "the value is nan"
    assert rows[2].reason == "FloatingPointError: the value at step 7 is inf"
    assert rows[3].reason == "ValueError: groups 3 do not divide channels 8"
    best = plan.best(rows)
    assert best is not None and best.number == 4  # higher was better


def test_importance_says_why_there_is_none(tmp_path: Path) -> None:
    assert "at least two" in run(toy("bowl", tmp_path, trials=1), tmp_path / "one").importances()[1]
    constant = toy("bowl", tmp_path, trials=3)
    tickets = Tickets(constant, tmp_path / "constant")
    tickets.fill()
    work(tickets, lambda trial: 1.0)
    assert tickets.importances() == ({}, "importance cannot be told: all complete trials have the same value")
