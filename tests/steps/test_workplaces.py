"""The doctor looks into the clones of scheduled runs: what the dead left is found and mended, what lives stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from genforge import files
from genforge.locks import Lock
from genforge.processes import Identity
from genforge.steps import doctor, workplaces
from genforge.tracking.run_log import all_runs
from tests.tracking.stories import started


def clone(root: Path, name: str) -> Path:
    """As `pipelines/workplace.py` leaves one, with what a run that was killed leaves in it."""
    folder = workplaces.home_of(root) / name
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "index.lock").touch()
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    (folder / ".dvc" / "tmp" / "rwlock").write_text('{"write": {"/a": {"pi')  # cut off in the middle
    shutil.copy(root / "params.yaml", folder)
    own = Identity.own()
    started(folder, process=Identity(own.pid, own.started - 3600, own.host))
    return folder


def test_what_killed_runs_left_in_their_clones_is_mended_and_a_run_at_work_is_left_alone(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SECONDS_TO_MARK", 0.0)
    monkeypatch.delenv(workplaces.HOME, raising=False)
    (tracked / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    (tracked / ".dvc").mkdir()
    (tracked / ".git").mkdir()
    dead, living = clone(tracked, "1"), clone(tracked, "2")
    half_made = dead.with_name(".3.0123abcd.tmp")
    half_made.mkdir()
    lock = Lock(living.with_name("2.lock"))
    assert lock.acquire()

    examination = doctor.examine(tracked)
    places = {finding.leftover.place.removeprefix(f"{dead}/") for finding in examination.findings}
    (run,) = all_runs(dead)
    assert places == {".git/index.lock", ".dvc/tmp/rwlock", f"workplace 1: {run.id}", str(half_made)}

    # A run that begins before it is mended keeps what it needs.
    beginning = Lock(dead.with_name("1.lock"))
    assert beginning.acquire()
    doctor.mend(examination, lambda _: None)
    assert (dead / ".git" / "index.lock").exists() and not half_made.exists()
    assert sum("a run has begun" in finding.problem for finding in examination.findings) == 3
    beginning.release()

    examination = doctor.examine(tracked)
    doctor.mend(examination, lambda _: None)
    assert examination.is_healthy, examination.to_json()
    assert not (dead / ".git" / "index.lock").exists() and run.status() == "KILLED"
    lock.release()
    assert {Path(finding.leftover.place).name for finding in doctor.examine(tracked).findings} >= {"index.lock"}


def test_workplaces_that_lie_elsewhere_are_found(
    tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(workplaces.HOME, str(tmp_path / "clones"))
    (tracked / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    lock = clone(tracked, "1") / ".git" / "index.lock"
    (found,) = list(workplaces.find(tracked, {}))
    assert found.place == str(lock) and lock.is_relative_to(tmp_path / "clones")
    found.mend()
    assert not list(workplaces.find(tracked, {}))
