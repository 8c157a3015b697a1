"""Tickets, claimed by a worker's own loop in this process: suggestions, pruning, failures, directions, storages."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy_search
from toy_search import DEFAULTS, toy

from genforge.processes import Identity
from genforge.search import lease
from genforge.search.lease import Watch
from genforge.search.plan import Lost, Plan, Row
from genforge.search.run import run_search
from genforge.search.storage import STORAGE_VARIABLE, open_journal
from genforge.search.tickets import MOST_DEATHS, Loss, Tickets, Trial
from genforge.search.worker import work
from genforge.settings import UserError

DEAD = Identity(2**22 + 1, 0.0, Identity.own().host)  # no process has so high an id


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


def test_one_worker_is_reproducible_also_when_it_was_interrupted(tmp_path: Path) -> None:
    """A trial taken up again is the same trial to the suggestions that follow."""

    def search(folder: Path, killed: set[int]) -> list[dict[str, Any]]:
        plan = toy("bowl", tmp_path, trials=16)
        tickets, value = Tickets(plan, folder), toy_search.bowl(plan.arguments)
        tickets.fill()
        while (trial := tickets.claim(DEAD if killed else Identity.own())) is not None:
            if trial.number in killed:
                killed.remove(trial.number)
                tickets.reap(Watch(60.0))
            else:
                tickets.complete(trial, value(trial))
        return settings(tickets.rows())

    assert search(tmp_path / "whole", set()) == search(tmp_path / "interrupted", {3, 5, 9})


def test_a_trial_that_has_ended_is_complete_however_bad_it_is(tmp_path: Path) -> None:
    """Else only the better half would stay for others to be measured by, and the bar would rise from trial to trial."""
    plan = toy("bowl", tmp_path, trials=6)
    tickets = Tickets(plan, tmp_path / "search")
    tickets.fill()

    def worse_and_worse(trial: Trial) -> float:
        trial.report(2, float(trial.number), ended=True)
        return float(trial.number)

    work(tickets, worse_and_worse)
    assert [row.state for row in tickets.rows()] == ["complete"] * 6


def test_another_seed_suggests_other_settings(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=2)
    other = plan.model_copy(update={"seed": 4})
    assert settings(run(plan, tmp_path / "a").rows())[1] != settings(run(other, tmp_path / "b").rows())[1]


@pytest.mark.parametrize(("trials", "random"), [(6, 2), (9, 3), (12, 4), (48, 4)])
def test_suggestions_follow_the_values_from_the_fourth_finished_trial_on(
    trials: int, random: int, tmp_path: Path
) -> None:
    """Sooner in a short search. Until then they are the same whatever was found."""

    def next_after(values: list[float], folder: Path) -> dict[str, Any]:
        tickets = Tickets(toy("bowl", tmp_path, trials=trials), folder)
        tickets.fill()
        for value in values:
            trial = tickets.claim(Identity.own())
            assert trial is not None
            tickets.complete(trial, value)
        last = tickets.claim(Identity.own())
        assert last is not None
        return dict(last.settings)

    up, down = [float(number) for number in range(random)], [float(-number) for number in range(random)]
    assert next_after(up[1:], tmp_path / "a") == next_after(down[1:], tmp_path / "b")
    assert next_after(up, tmp_path / "c") != next_after(down, tmp_path / "d")


def test_a_search_made_longer_goes_on_from_what_it_has(tmp_path: Path) -> None:
    run(toy("bowl", tmp_path, trials=3), tmp_path / "search")
    rows = run(toy("bowl", tmp_path, trials=5), tmp_path / "search").rows()
    assert [row.number for row in rows] == [0, 1, 2, 3, 4]
    calls = [line.split()[0] for line in (tmp_path / "calls.txt").read_text().splitlines()]
    assert calls == ["0", "1", "2", "3", "4"]  # each once, over both


def test_pages_know_what_a_value_is_also_of_a_study_that_had_no_name_for_it(tmp_path: Path) -> None:
    """Else Optuna's dashboard says "Objective 0"."""
    plan = toy("bowl", tmp_path).model_copy(update={"measure": "FID"})
    journal = tmp_path / "search" / "journal.log"
    journal.parent.mkdir()
    optuna.create_study(storage=open_journal(journal), study_name="toy/search")
    for _ in range(2):
        Tickets(plan, journal.parent)
    assert journal.read_text().count("FID") == 1  # written once, and not by every worker
    assert optuna.load_study(storage=open_journal(journal), study_name="toy/search").metric_names == ["FID"]


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


def test_another_reaper_is_no_harm_and_a_reaped_trial_has_all_it_had(storage: str, tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=2)
    tickets, others = Tickets(plan, tmp_path / "search"), Tickets(plan, tmp_path / "search")
    tickets.fill()
    first, second = tickets.claim(DEAD), tickets.claim(Identity.own())
    assert first is not None and second is not None and tickets.claim(Identity.own()) is None
    first.report(5, 0.75)
    first.folder.mkdir(parents=True)
    (first.folder / "half-way").touch()
    losses = []

    class Slow(Watch):
        """Another reaper is faster, between the look and the deed."""

        def is_dead(self, attempt: optuna.trial.FrozenTrial) -> bool:
            dead = super().is_dead(attempt)
            losses.extend(tickets.reap(Watch(60.0)))
            return dead

    assert others.reap(Slow(60.0)) == []
    assert losses == [Loss(0, progressed=True)]
    assert tickets.count() == others.count() == {"waiting": 1, "running": 1, "finished": 0}
    again = others.claim(Identity.own())
    assert again is not None and (again.number, again.settings) == (first.number, first.settings)
    assert (again.folder / "half-way").exists() and not first.folder.exists()
    others.complete(again, 1.0)
    assert others.rows()[0].reports == {5: 0.75}


def test_who_lost_a_trial_learns_it_and_cannot_write_it(storage: str, tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=1)
    tickets, others = Tickets(plan, tmp_path / "search"), Tickets(plan, tmp_path / "search")
    tickets.fill()
    lost = tickets.claim(DEAD)
    assert lost is not None
    lost.report(1, 0.5)
    others.reap(Watch(60.0))
    taken = others.claim(Identity.own())
    assert taken is not None
    for attempted in (
        lambda: lost.report(2, 0.1),
        lambda: lost.report(1, 0.5),
        lambda: tickets.sign(lost),
        lambda: tickets.complete(lost, 0.0),
        lambda: tickets.prune(lost),
        lambda: tickets.fail(lost, "of no use"),
    ):
        with pytest.raises(Lost):
            attempted()
    others.complete(taken, 3.0)
    assert [(row.state, row.value, row.reports) for row in tickets.rows()] == [("complete", 3.0, {1: 0.5})]


class Clock:
    """The watch's, which is put on by hand: a machine that stops for a second changes nothing."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_worker_elsewhere_keeps_its_trial_as_long_as_it_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    tickets = Tickets(toy("bowl", tmp_path, trials=1), tmp_path / "search")
    tickets.fill()
    trial = tickets.claim(Identity(1, 0.0, "elsewhere"))
    assert trial is not None
    watch = Watch(lease=2.0)
    for _ in range(3):
        assert not tickets.reap(watch)
        clock.now += 1.9
        assert not tickets.reap(watch)
        tickets.sign(trial)
    assert not tickets.reap(watch)
    clock.now += 2.1
    assert tickets.reap(watch) == [Loss(0, progressed=False)]


def test_a_trial_that_was_claimed_and_never_signed_is_taken_up(tmp_path: Path) -> None:
    tickets = Tickets(toy("bowl", tmp_path, trials=1), tmp_path / "search")
    tickets.fill()
    study = optuna.load_study(study_name="toy/search", storage=tickets.store.storage)
    study.ask()  # claims the waiting trial, as a worker that was killed in the next moment
    watch = Watch(lease=600.0, to_sign=1.0)
    assert not tickets.reap(watch)
    time.sleep(1.1)
    assert tickets.reap(watch) == [Loss(0, progressed=False)]
    assert tickets.count()["waiting"] == 1


def test_a_trial_that_kills_every_worker_fails_and_the_rest_go_on(tmp_path: Path) -> None:
    tickets = Tickets(toy("bowl", tmp_path, trials=2), tmp_path / "search")
    tickets.fill()
    for _ in range(MOST_DEATHS):
        assert tickets.claim(DEAD) is not None
        tickets.reap(Watch(60.0))
    assert [(row.number, row.reason) for row in tickets.rows()] == [(0, "its worker was killed 5 times in a row")]
    assert tickets.count() == {"waiting": 1, "running": 0, "finished": 1}


def test_deaths_between_which_a_trial_got_further_are_not_held_against_it(tmp_path: Path) -> None:
    tickets = Tickets(toy("bowl", tmp_path, trials=1), tmp_path / "search")
    tickets.fill()
    for step in range(2 * MOST_DEATHS):
        trial = tickets.claim(DEAD)
        assert trial is not None
        trial.folder.mkdir(exist_ok=True)
        (trial.folder / f"step-{step // 3}").touch()  # a checkpoint now and then, and never a report
        tickets.reap(Watch(60.0))
    assert tickets.count()["waiting"] == 1


def test_of_twins_the_first_counts_and_the_other_is_never_claimed(storage: str, tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=2)
    tickets = Tickets(plan, tmp_path / "search")
    tickets.fill()
    first = tickets.claim(Identity.own())
    tickets._enqueue({"ticket": 0, "attempt": 0}, {}, {})  # the answer was lost, and the storage asked again
    second, third = tickets.claim(Identity.own()), tickets.claim(Identity.own())
    assert first is not None and second is not None and third is None
    assert (first.number, second.number) == (0, 1)
    assert tickets.count() == {"waiting": 0, "running": 2, "finished": 0}


def test_a_full_disk_fails_no_trial(tmp_path: Path) -> None:
    plan = toy("disk_full", tmp_path, trials=3)
    tickets = Tickets(plan, tmp_path / "search")
    with pytest.raises(UserError, match="could not be written"):
        work(tickets, toy_search.disk_full(plan.arguments))
    assert [row.state for row in tickets.rows()] == ["complete"]
    assert tickets.count() == {"waiting": 1, "running": 1, "finished": 1}


@pytest.mark.parametrize("storage", ["postgresql", "sqlite"], indirect=True)
def test_a_database_serves_as_well_as_the_journal(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = toy("bowl", tmp_path, trials=5)
    database = run(plan, tmp_path / "database").rows()
    assert not (tmp_path / "database" / "journal.log").exists()
    monkeypatch.delenv(STORAGE_VARIABLE)
    journal = run(plan, tmp_path / "journal").rows()
    assert settings(database) == settings(journal)


def test_a_worker_imports_neither_redis_nor_sqlalchemy_for_a_journal(tmp_path: Path) -> None:
    """A tenth of a second each, in every worker."""
    plan = toy("imports", tmp_path, trials=1)
    (row,) = run_search(plan, tmp_path / "search", workers=1).rows
    assert row.state == "complete", row.reason


def test_importances_do_not_pay_for_the_import_of_scikit_learn(tmp_path: Path) -> None:
    code = (
        "import sys, toy_search; from pathlib import Path\n"
        "from genforge.search.tickets import Tickets; from genforge.search.worker import work\n"
        f"folder = Path({str(tmp_path)!r}); plan = toy_search.toy('bowl', folder); tickets = Tickets(plan, folder)\n"
        "tickets.fill(); work(tickets, toy_search.bowl(plan.arguments))\n"
        "assert tickets.importances()[0]\n"
        "print([name for name in ('sklearn', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
