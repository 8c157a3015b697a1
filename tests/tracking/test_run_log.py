"""A run's log tells exactly what was written to it, whoever is killed or writes beside."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genforge.pictures import png_bytes
from genforge.processes import Identity
from genforge.settings import UserError
from genforge.tracking import run_log
from genforge.tracking.run_log import RunLog, all_runs, flat, legal, reap, runs_folder
from tests.tracking.stories import started


def ended_process() -> Identity:
    """A process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = Identity.of(process.pid)
        assert identity is not None
        assert not identity.is_gone()
    return identity


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    log = started(tmp_path)
    log.metrics(3, {"loss": 0.1, "fid": 1 / 3})
    log.tags({"genforge.family": "gan"})
    log.end("FINISHED")
    events = list(log.read())
    assert [event.kind for event in events] == ["start", "metrics", "tags", "end"]
    assert events[1].values == {"step": 3, "values": {"loss": 0.1, "fid": 1 / 3}}
    assert [event.kind for event in log.read(events[1].end)] == ["tags", "end"]
    assert events[-1].end == log.size()


def test_numbers_that_are_not_finite_are_told(tmp_path: Path) -> None:
    log = started(tmp_path)
    log.metrics(1, {"a": float("nan"), "b": float("inf"), "c": -float("inf")})
    *_, event = log.read()
    assert [str(float(value)) for value in event.values["values"].values()] == ["nan", "inf", "-inf"]


def test_no_two_points_of_a_run_share_a_millisecond(tmp_path: Path) -> None:
    log = started(tmp_path)
    for step in range(200):
        log.metrics(0, {"loss": step})
    times = [event.time for event in log.read()]
    assert len(set(times)) == len(times)
    assert times == sorted(times)


def test_a_line_that_a_kill_tore_off_was_never_said(tmp_path: Path) -> None:
    log = started(tmp_path)
    log.metrics(1, {"loss": 1.0})
    whole = log.size()
    with (log.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"event":"metrics","time":5,"st')
    assert [event.kind for event in log.read()] == ["start", "metrics"]
    assert log.status() is None
    again = RunLog(log.folder)
    again.metrics(2, {"loss": 2.0})
    again.end("KILLED")
    assert [event.kind for event in log.read(whole)] == ["metrics", "end"]
    assert log.status() == "KILLED"


def test_a_run_has_a_start_or_does_not_exist(tmp_path: Path) -> None:
    log = started(tmp_path)
    again = RunLog.create(runs_folder(tmp_path), log.id, {**log.start().values, "name": "another"})
    assert again.start().values["name"] == "gan"
    assert [found.id for found in all_runs(tmp_path)] == [log.id]
    assert [path.name for path in runs_folder(tmp_path).iterdir()] == [log.id]


def _write_many(folder: Path, writer: int) -> None:
    log = RunLog(folder)
    for step in range(200):
        log.metrics(step, {f"writer{writer}": 1.0})


def test_writers_side_by_side_tear_no_line(tmp_path: Path) -> None:
    log = started(tmp_path)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(log.folder, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = (log.folder / "events.jsonl").read_bytes().splitlines()
    assert len([json.loads(line) for line in lines]) == 1 + 4 * 200


def test_pictures_and_files_are_copied(tmp_path: Path) -> None:
    log = started(tmp_path)
    png = png_bytes(np.full((8, 8, 1), 7, np.uint8))
    log.image("samples/ema", 12, png)
    source = tmp_path / "table.csv"
    source.write_text("a,b")
    log.artifact(source, "tables")
    source.write_text("changed later")
    image, artifact = list(log.read())[1:]
    assert (log.folder / "images" / image.values["file"]).read_bytes() == png
    assert (log.folder / "artifacts" / artifact.values["file"]).read_text() == "a,b"
    for wrong in ("/etc", "../outside"):
        with pytest.raises(UserError, match=r"path inside the run"):
            log.artifact(source, wrong)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fid@5000", "fid_5000"),
        ("loss/critic", "loss/critic"),
        ("/a/../b", "a/_/b"),
        ("é", "_"),
        ("", "_"),
        ("a b-c.d", "a b-c.d"),
    ],
)
def test_names_become_what_mlflow_takes(name: str, expected: str) -> None:
    assert legal(name) == expected


def test_nested_parameters_become_dotted_keys() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}) == {"a.b": "1", "a.c.d": "[2, 3]", "e": "None"}


@pytest.mark.parametrize("identity", ["", "../x", "a/b", ".hidden", "x" * 200])
def test_an_id_that_is_no_folder_name_is_refused(tmp_path: Path, identity: str) -> None:
    with pytest.raises(UserError, match=re.escape(repr(identity))):
        RunLog.create(tmp_path, identity, {})


def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    dead, alive, finished = started(tmp_path, process=ended_process()), started(tmp_path), started(tmp_path)
    finished.end("FINISHED")
    assert reap(tmp_path) == [dead.id]
    assert [log.status() for log in (dead, alive, finished)] == ["KILLED", None, "FINISHED"]
    assert reap(tmp_path) == []


def test_a_process_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    gone = ended_process()
    log = started(tmp_path, process=Identity(gone.pid, gone.started, "another-machine"))
    assert reap(tmp_path) == []
    assert log.status() is None


def test_a_process_id_that_was_given_out_again_is_another_process() -> None:
    own = Identity.own()
    assert own == Identity.of(os.getpid())
    assert Identity(own.pid, own.started - 3600, own.host).is_gone()


@pytest.mark.parametrize(("stage", "expected"), [("FINISHED", "FINISHED"), ("FAILED", "FAILED"), (None, "FAILED")])
def test_a_pipeline_of_dvc_ends_with_dvc(tmp_path: Path, stage: run_log.Status | None, expected: str) -> None:
    gone = ended_process()
    pipeline = started(tmp_path, "dvc", gone, kind=run_log.PIPELINE)
    child = started(tmp_path, parent=pipeline.id)
    if stage is not None:
        child.end(stage)
    assert reap(tmp_path) == [pipeline.id]
    assert pipeline.status() == expected


def test_a_run_that_says_its_end_while_it_is_looked_at_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends its run and goes, after the look at the log and before the look at the process."""
    log = started(tmp_path, process=ended_process())
    is_gone = Identity.is_gone

    def end_meanwhile(self: Identity) -> bool:
        if log.status() is None:
            log.end("FINISHED")
        return is_gone(self)

    monkeypatch.setattr(Identity, "is_gone", end_meanwhile)
    assert reap(tmp_path) == []
    assert log.status() == "FINISHED"


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_an_end_with_a_long_reason_is_an_end(tmp_path: Path, letter: str) -> None:
    log = started(tmp_path)
    log.end("FAILED", letter * 10_000)
    assert log.status() == "FAILED"


@contextlib.contextmanager
def full_disk(log: RunLog) -> Iterator[None]:
    """Within the block the log's file takes nothing: `/dev/full` answers every write as a full disk does."""
    events, kept = log.folder / "events.jsonl", log.folder / "kept"
    events.rename(kept)
    events.symlink_to("/dev/full")
    try:
        yield
    finally:
        events.unlink()
        kept.rename(events)


def test_a_full_disk_stops_no_run_and_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = started(tmp_path)
    log.metrics(1, {"loss": 1.0})
    with full_disk(log):
        log.metrics(2, {"loss": 2.0})
        log.image("samples", 2, png_bytes(np.zeros((8, 8, 1), np.uint8)))
        log.metrics(3, {"loss": 3.0})
    log.metrics(4, {"loss": 4.0})
    log.end("FINISHED")
    told = [(event.kind, event.values.get("step")) for event in log.read()]
    assert told == [
        ("start", None),
        *(("metrics", n) for n in (1, 2)),
        ("image", 2),
        ("metrics", 3),
        ("metrics", 4),
        ("end", None),
    ]
    assert len(list((log.folder / "images").iterdir())) == 1
    assert capsys.readouterr().err.count("No space left on device") == 1  # said once, not at every point


def test_a_disk_that_stays_full_is_an_error_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = started(tmp_path)
    with full_disk(log):
        log.metrics(1, {"loss": 1.0})
        with pytest.raises(UserError, match=r"disk is full, and 2 events .* free some space"):
            log.end("FINISHED")
        monkeypatch.setattr(run_log, "MAX_UNSAID", 500)
        with pytest.raises(UserError, match="disk is full"):
            for step in range(100):
                log.metrics(step, {"loss": 1.0})


def test_what_a_full_disk_took_of_a_line_is_not_counted(tmp_path: Path) -> None:
    """A real limit of the system's, inside of a line: the disk takes some bytes of it and refuses the rest."""
    code = """
import resource, sys
from pathlib import Path
from genforge.tracking.run_log import RunLog
log = RunLog(Path(sys.argv[1]))
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for step in range(100):
    if step == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.size() + 100, most))
    if step == 80:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    log.metrics(step, {"loss": step})
log.end("FINISHED")
"""
    log = started(tmp_path)
    subprocess.run([sys.executable, "-c", code, str(log.folder)], check=True, capture_output=True)
    assert [event.values["step"] for event in log.read() if event.kind == "metrics"] == list(range(100))
    assert log.status() == "FINISHED"
    assert len((log.folder / "events.jsonl").read_bytes().splitlines()) > 102  # a torn line is among them


def test_a_run_does_not_begin_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunLog, "_events", Path("/dev/full"))
    with pytest.raises(UserError, match="disk is full"):
        started(tmp_path)
    assert list(runs_folder(tmp_path).iterdir()) == []
