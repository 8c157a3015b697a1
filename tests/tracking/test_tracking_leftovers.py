"""What the dead have left of runs is found and mended, and what lives is left alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from genforge.leftovers import Leftover
from genforge.processes import Identity
from genforge.settings import UserError
from genforge.tracking import leftovers, mlflow_store
from genforge.tracking import runs as tracking
from genforge.tracking.replay import Place, Replay
from genforge.tracking.retention import forget_old
from genforge.tracking.run_log import all_runs, runs_folder
from tests.ports import free_port
from tests.tracking.stories import check_whole, started, stored, tell

DAY = 86400


def gone() -> Identity:
    own = Identity.own()
    return Identity(own.pid, own.started - 3600, own.host)


def elsewhere() -> Identity:
    return Identity(1, 0.0, "another-machine")


def make_old(path: Path, seconds: float) -> None:
    for file in [path, *path.rglob("*")]:
        os.utime(file, (time.time() - seconds,) * 2)


def of_kind(root: Path, kind: str) -> list[Leftover]:
    return [found for found in leftovers.find(root) if found.kind == kind]


def test_a_healthy_project_has_none(tracked: Path) -> None:
    assert list(leftovers.find(tracked)) == []
    tell(tracked)
    tracking.upload_all(tracked)
    with tracking.run(tracked, "train") as run:
        run.metrics(1, {"loss": 1.0})
        started(tracked, process=elsewhere())
        assert list(leftovers.find(tracked)) == []


def test_a_run_of_the_dead_is_ended(tracked: Path) -> None:
    log, far, silent = (
        started(tracked, process=gone()),
        started(tracked, process=elsewhere()),
        started(tracked, process=elsewhere()),
    )
    make_old(silent.folder, 8 * DAY)
    found = of_kind(tracked, "run")
    assert {leftover.place for leftover in found} == {log.id, silent.id}
    assert [each.status() for each in (log, silent)] == [None, None]  # finding changes nothing
    for leftover in found:
        leftover.mend()
        leftover.mend()  # a second time does nothing
    assert [each.status() for each in (log, far, silent)] == ["KILLED", None, "KILLED"]
    assert len(list(log.read())) == len(list(silent.read())) == 2
    assert of_kind(tracked, "run") == []


def test_a_run_elsewhere_that_speaks_again_is_left_alone(tracked: Path) -> None:
    log = started(tracked, process=elsewhere())
    make_old(log.folder, 8 * DAY)
    (leftover,) = of_kind(tracked, "run")
    log.metrics(1, {"loss": 1.0})
    leftover.mend()
    assert log.status() is None


def test_logs_that_mlflow_has_not_are_sent(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    logs = [tell(tracked), tell(tracked)]
    (leftover,) = leftovers.find(tracked)
    assert "2 ended runs" in leftover.what
    monkeypatch.setattr(leftovers, "PATIENCE", 0.2)
    with pytest.raises(UserError, match=r"could not be sent.*refused"):
        leftover.mend()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with FileLock(tracked / ".genforge" / "uploader.lock"):
        assert list(leftovers.find(tracked)) == []  # an uploader is at it
    (leftover,) = leftovers.find(tracked)
    leftover.mend()
    for log in logs:
        check_whole(mlflow_store.connect(tracked), log)
    assert list(leftovers.find(tracked)) == []


def test_strays_in_mlflow_are_settled(tracked: Path) -> None:
    log, forgotten, removed = tell(tracked), tell(tracked), tell(tracked)
    tracking.upload_all(tracked)
    client = mlflow_store.connect(tracked)
    experiment = client.get_experiment_by_name("digits").experiment_id
    double = client.create_run(experiment, tags={"genforge.run": log.id}).info.run_id
    client.update_run(stored(client, forgotten).info.run_id, "RUNNING")  # as an older copy of the database has it
    lost = stored(client, removed).info.run_id
    client.update_run(lost, "RUNNING")
    removed.folder.rename(tracked / "somebody removed it")
    found = list(leftovers.find(tracked))
    assert {leftover.remedy for leftover in found} == {"delete it in MLflow", "mark it FINISHED", "mark it KILLED"}
    for leftover in found:
        leftover.mend()
    assert client.get_run(double).info.lifecycle_stage == "deleted"
    *_, end = forgotten.read()
    assert stored(client, forgotten).info.end_time == end.time
    check_whole(client, forgotten)
    assert client.get_run(lost).info.status == "KILLED"
    assert list(leftovers.find(tracked)) == []


def test_a_log_without_a_start_stops_nobody_and_is_moved_aside(tracked: Path) -> None:
    bad = runs_folder(tracked) / "20260101T000000-train-gan-00000000"
    bad.mkdir(parents=True)
    (bad / "events.jsonl").write_bytes(b"\0" * 4096)  # what a power cut leaves of a file
    empty = runs_folder(tracked) / "20260101T000001-train-gan-00000000"
    empty.mkdir()
    log = tell(tracked)
    assert tracking.reap(tracked) == []
    assert tracking.upload_all(tracked) == tracking.Uploaded(1, {})
    check_whole(mlflow_store.connect(tracked), log)
    for leftover in of_kind(tracked, "log"):
        leftover.mend()
    aside = tracked / ".genforge" / "damaged"
    assert sorted(path.name for path in aside.iterdir()) == [bad.name, empty.name]
    assert (aside / bad.name / "events.jsonl").stat().st_size == 4096
    assert list(leftovers.find(tracked)) == []


def test_old_temporary_files_are_deleted_and_young_ones_are_not(tracked: Path) -> None:
    log = tell(tracked)
    tracking.upload_all(tracked)
    runs = runs_folder(tracked)
    files = [log.folder / ".upload.json.tmp", log.folder / "artifacts" / "settings" / ".params.yaml.12345678.tmp"]
    files += [tracked / ".mlflow.db.1-2.tmp", tracked / ".mlflow.db.1-2.tmp-journal"]
    folders = [
        runs / ".20260101T000000-train.12345678.tmp",
        runs / ".20260101T000000-train.1.old",
        log.folder / ".sending",
    ]
    for folder in folders:
        folder.mkdir()
        files.append(folder / "file")
    for file in files:
        file.touch()
    assert list(leftovers.find(tracked)) == []
    for path in [*files, *folders]:
        make_old(path, 3600)
    found = of_kind(tracked, "temporary file")
    assert len(found) == 7
    for leftover in found:
        leftover.mend()
    assert not any(path.exists() for path in [*files, *folders])
    check_whole(mlflow_store.connect(tracked), log)


def test_only_logs_that_are_wholly_sent_are_forgotten(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tracking.start_pipeline(tracked)
    monkeypatch.setenv(tracking.PIPELINE_RUN, pipeline)
    sent = [tell(tracked) for _ in range(2)]
    tracking.finish_pipeline(tracked, pipeline, "FINISHED")
    tracking.upload_all(tracked)
    unsent, young = tell(tracked), started(tracked, process=Identity.own())
    for log in all_runs(tracked):
        make_old(log.folder, (31 if log.id == pipeline else 32) * DAY)  # a pipeline ends after its parts
    store = Replay(tracked).store
    forget_old(tracked, store)
    left = {log.id for log in all_runs(tracked)}
    assert left == {unsent.id, young.id, pipeline}  # the pipeline is the parent of one that is still to be sent
    assert not any(log.folder.exists() for log in sent)
    tracking.upload_all(tracked)
    client = mlflow_store.connect(tracked)
    assert stored(client, unsent).data.tags["mlflow.parentRunId"]
    forget_old(tracked, store)
    assert {log.id for log in all_runs(tracked)} == {young.id}


def test_logs_are_bounded_in_number_and_size(tracked: Path) -> None:
    store, logs = Replay(tracked).store, [tell(tracked) for _ in range(5)]
    for age, log in enumerate(reversed(logs)):
        make_old(log.folder, age * 60)
        Place(store, "run", log.size(), ended=True).write(log)
    forget_old(tracked, store, runs=3)
    assert [log.id for log in all_runs(tracked)] == sorted(log.id for log in logs[2:])
    one = sum(path.stat().st_size for path in logs[4].folder.rglob("*") if path.is_file())
    forget_old(tracked, store, size=one + 10)
    assert [log.id for log in all_runs(tracked)] == [logs[4].id]
