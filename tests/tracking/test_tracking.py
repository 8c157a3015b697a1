"""A run says how it ended and whose part it is, and costs its process next to nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from genforge.tracking import runs as tracking
from genforge.tracking.run_log import RunLog, all_runs, runs_folder


def only_run(root: Path) -> RunLog:
    (log,) = all_runs(root)
    return log


def end_of(log: RunLog) -> dict[str, str]:
    *_, event = log.read()
    assert event.kind == "end"
    return event.values


def test_a_run_knows_what_it_is(tracked: Path) -> None:
    (tracked / "data" / "prepared").mkdir(parents=True)
    (tracked / "data" / "prepared" / "card.json").write_text('{"digest": "abc"}')
    with tracking.run(tracked, "train", "gan", {"training": {"steps": 5}}, {"family": "gan"}) as run:
        assert run.id == only_run(tracked).id
    start = only_run(tracked).start().values
    assert start["experiment"] == "digits"
    assert start["parameters"] == {"training.steps": "5"}
    assert start["tags"]["genforge.kind"] == "train"
    assert start["tags"]["genforge.family"] == "gan"
    assert start["tags"]["genforge.data"] == "abc"
    assert start["dataset"] == {"name": "digits", "digest": "abc", "source": "data/prepared"}
    assert start["parent"] is None


def test_a_run_knows_its_commit_and_whether_files_differ_from_it(tracked: Path) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        command = ["git", "-C", str(tracked), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert tracking.git_tags(tracked) == {}
    git("add", "params.yaml")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert tracking.git_tags(tracked) == {"commit": commit, "dirty": "false", "mlflow.source.git.commit": commit}
    (tracked / "params.yaml").write_text("recipes: {vae: {from: conv-vae}}\n")
    assert tracking.git_tags(tracked)["dirty"] == "true"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "FINISHED", ""),
        (ValueError("loss is nan"), "FAILED", "ValueError: loss is nan"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (SystemExit(128 + signal.SIGTERM), "KILLED", "SystemExit: 143"),
        (SystemExit(0), "FINISHED", ""),
    ],
)
def test_a_run_ends_as_its_block_does(tracked: Path, error: BaseException | None, status: str, reason: str) -> None:
    try:
        with tracking.run(tracked, "train"):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert end_of(only_run(tracked)) == {"status": status, "reason": reason}


def test_a_pruned_trial_is_finished_and_says_so(tracked: Path) -> None:
    with pytest.raises(RuntimeError, match="pruned"), tracking.run(tracked, "trial") as run:
        run.finish("pruned")
        raise RuntimeError("pruned")
    log = only_run(tracked)
    assert end_of(log)["status"] == "FINISHED"
    assert [event.values["values"] for event in log.read() if event.kind == "tags"] == [{"genforge.outcome": "pruned"}]


def test_a_flow_names_its_pipeline_run(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tracking.start_pipeline(tracked, "retrain", {"schedule": "nightly"})
    monkeypatch.setenv(tracking.PIPELINE_RUN, pipeline)
    with tracking.run(tracked, "search") as search, tracking.run(tracked, "trial", parent=search.id):
        pass
    tracking.finish_pipeline(tracked, pipeline, "FAILED", "stage train@gan failed")
    tracking.finish_pipeline(tracked, pipeline, "FINISHED")
    parents = {log.start().values["kind"]: log.start().values["parent"] for log in all_runs(tracked)}
    assert parents == {"pipeline": None, "search": pipeline, "trial": search.id}
    assert end_of(RunLog(runs_folder(tracked) / pipeline)) == {"status": "FAILED", "reason": "stage train@gan failed"}


def test_stages_of_one_dvc_process_share_a_pipeline_run(tracked: Path) -> None:
    stage = "from pathlib import Path; from genforge.tracking.runs import run\nwith run(Path(), 'train', 'gan'): pass"
    (tracked / "dvc").write_text(
        textwrap.dedent(f"""
            import subprocess, sys
            for _ in range(2):
                subprocess.run(["sh", "-c", f'"{{sys.executable}}" -c "$0"', {stage!r}], check=True)
        """)
    )
    subprocess.run([sys.executable, str(tracked / "dvc"), "repro"], cwd=tracked, check=True)
    pipeline, *stages = sorted(all_runs(tracked), key=lambda log: log.start().values["kind"])
    assert pipeline.start().values["name"] == "dvc"
    assert [log.start().values["parent"] for log in stages] == [pipeline.id, pipeline.id]
    assert tracking.reap(tracked) == [pipeline.id]
    assert pipeline.status() == "FINISHED"


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [
        (signal.SIGKILL, "KILLED", "process {pid} ended without a word"),
        (signal.SIGTERM, "KILLED", "process {pid} ended without a word"),
        (signal.SIGINT, "KILLED", "KeyboardInterrupt"),
        (None, "FAILED", "ValueError: loss is nan"),
    ],
)
def test_a_run_does_not_stay_running_whatever_ends_it(
    tracked: Path, number: signal.Signals | None, status: str, reason: str
) -> None:
    code = (
        "from pathlib import Path; from genforge.tracking.runs import run\n"
        "with run(Path(), 'train'):\n    print(1); input(); raise ValueError('loss is nan')"
    )
    command = [sys.executable, "-uc", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tracked, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert tracking.reap(tracked) == []
        process.communicate(b"\n") if number is None else process.send_signal(number)
    log = only_run(tracked)
    tracking.look_after(tracked)
    assert end_of(log) == {"status": status, "reason": reason.format(pid=process.pid)}
    assert len([event for event in log.read() if event.kind == "end"]) == 1


def test_a_full_disk_does_not_hide_why_a_run_failed(tracked: Path) -> None:
    with pytest.raises(ValueError, match="loss is nan") as caught, tracking.run(tracked, "train") as run:
        (RunLog(runs_folder(tracked) / run.id).folder / "events.jsonl").unlink()
        (RunLog(runs_folder(tracked) / run.id).folder / "events.jsonl").symlink_to("/dev/full")
        raise ValueError("loss is nan")
    assert "disk is full" in caught.value.__notes__[0]


def test_looking_after_runs_stops_no_command(tracked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracking.look_after(tracked)
    assert not (tracked / ".genforge").exists()
    with tracking.run(tracked, "train") as run:
        pass
    events = RunLog(runs_folder(tracked) / run.id).folder / "events.jsonl"
    events.unlink()
    events.mkdir()
    tracking.look_after(tracked)
    assert "could not be looked after" in capsys.readouterr().err


def test_a_stage_pays_little(tracked: Path) -> None:
    began = time.process_time()
    with tracking.run(tracked, "train") as run:
        for step in range(1000):
            run.metrics(step, {"loss": 1.0, "critic": 2.0})
    # 0.05 s on a quiet machine; the limit is for a busy one.
    assert time.process_time() - began < 0.5


def test_the_uploader_is_off_where_it_is_said(tracked: Path) -> None:
    assert os.environ["GENFORGE_UPLOADER"] == "off"
    with tracking.run(tracked, "train"):
        pass
    assert not (tracked / ".genforge" / "uploader.log").exists()
