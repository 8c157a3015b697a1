"""What killed searches leave is found, told, and mended; what lives is left alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from toy_search import toy

from genforge.processes import Identity
from genforge.search.leftovers import find
from genforge.search.storage import STORAGE_VARIABLE
from genforge.search.tickets import Tickets, Trial

DEAD = Identity(2**22 + 1, 0.0, Identity.own().host)  # no process has so high an id


def claimed(root: Path, *workers: Identity) -> tuple[Tickets, list[Trial]]:
    """A search in a project's folder, with a running trial a worker, and a checkpoint in each trial's folder."""
    tickets = Tickets(toy("steps", root, trials=len(workers) + 1), root / ".genforge" / "search" / "toy" / "abc")
    tickets.fill()
    trials = [tickets.claim(worker) for worker in workers]
    assert all(trials)
    for trial in trials:
        assert trial is not None
        trial.folder.mkdir(parents=True)
        (trial.folder / "step.txt").write_text("1")
    return tickets, [trial for trial in trials if trial is not None]


def test_nothing_is_found_where_there_is_nothing_and_nothing_is_made(storage: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert list(find(tmp_path)) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dead_workers_trial_is_found_and_then_waits_again(storage: str, tmp_path: Path) -> None:
    tickets, _ = claimed(tmp_path, DEAD, Identity.own())
    (found,) = find(tmp_path)
    assert (found.kind, found.place) == ("trial", "toy/abc, trial 0")
    assert f"process {DEAD.pid}, has ended" in found.what
    found.mend()
    found.mend()
    assert list(find(tmp_path)) == []
    tickets.fill()
    assert tickets.count() == {"waiting": 2, "running": 1, "finished": 0}
    again = tickets.claim(Identity.own())
    assert again is not None and again.number == 0 and (again.folder / "step.txt").exists()


def test_a_trial_of_another_machine_is_found_when_its_lease_is_over(tmp_path: Path) -> None:
    tickets, (trial,) = claimed(tmp_path, Identity(1, 0.0, "elsewhere"))
    assert list(find(tmp_path, lease=60.0)) == []
    tickets._storage.set_trial_user_attr(trial.id, "alive", time.time() - 90)
    (found,) = find(tmp_path, lease=60.0)
    assert "process 1 of elsewhere, has given no sign of life for 9" in found.what
    tickets.sign(trial)  # it was only slow
    found.mend()
    assert tickets.count()["running"] == 1


def test_checkpoints_of_finished_trials_are_found_and_others_kept(storage: str, tmp_path: Path) -> None:
    tickets, (done, going) = claimed(tmp_path, Identity.own(), Identity.own())
    tickets.complete(done, 1.0)
    (found,) = find(tmp_path)
    assert (found.kind, found.place, found.what) == ("checkpoints", str(done.folder), "of a trial that is finished")
    found.mend()
    assert not done.folder.exists() and going.folder.exists()


def test_checkpoints_of_a_search_that_is_gone_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'trials.db'}")
    tickets, (trial,) = claimed(tmp_path, Identity.own())
    assert list(find(tmp_path)) == []
    tickets._storage.delete_study(tickets._study_id)
    (found,) = find(tmp_path)
    assert found.what == "of a search that is gone"
    found.mend()
    assert not trial.folder.exists()
    monkeypatch.delenv(STORAGE_VARIABLE)  # then nothing is known of a folder that has no journal
    trial.folder.mkdir()
    assert list(find(tmp_path)) == []


def test_an_old_lock_of_optunas_own_tools_is_found(tmp_path: Path) -> None:
    tickets, _ = claimed(tmp_path, Identity.own())
    lock = tickets.folder / "journal.log.lock"
    lock.symlink_to(tickets.folder / "journal.log")
    assert list(find(tmp_path)) == []  # somebody may hold it
    os.utime(lock, (0, time.time() - 120), follow_symlinks=False)
    (found,) = find(tmp_path)
    assert (found.kind, found.place) == ("lock", str(lock))
    found.mend()
    assert not lock.is_symlink() and (tickets.folder / "journal.log").exists()
