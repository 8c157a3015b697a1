"""A training step that is killed and resumed: MLflow holds each of its runs as it was, and the last one whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genforge.steps import ingest, prepare, resolve
from genforge.steps.project import Project
from genforge.tracking import mlflow_store
from genforge.tracking import runs as tracking
from genforge.tracking.run_log import RunLog, all_runs, runs_folder
from tests.tracking.stories import curves, stored, stored_curves

STEPS, EVERY = 1050, 5
PARAMS = f"""
data: {{name: digits, source: digits}}
recipes:
  vae: {{from: vae-mlp, training: {{steps: {STEPS}, batch_size: 4, checkpoint_every: 70, log_every: {EVERY}}}}}
"""


@pytest.mark.slow
def test_the_run_goes_on_as_another_one_below_the_same_pipeline(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tracked / "params.yaml").write_text(PARAMS)
    project = Project.load(tracked)
    ingest.run(project)
    prepare.run(project)
    resolve.run(project)
    pipeline = tracking.start_pipeline(tracked)
    monkeypatch.setenv(tracking.PIPELINE_RUN, pipeline)
    command = [sys.executable, "-m", "genforge.cli", "step", "train", "vae"]

    # Killed after some checkpoints, in the middle of a line.
    stage = subprocess.Popen(command, cwd=tracked, stderr=subprocess.DEVNULL)
    while not (logs := trainings(tracked)) or told(logs[0]) < 15:
        assert stage.poll() is None
        time.sleep(0.01)
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait()
    (killed,) = trainings(tracked)
    with (killed.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"event":"metrics","time":17')
    assert told(killed) < STEPS // EVERY

    # And again, to its end.
    subprocess.run(command, cwd=tracked, check=True, capture_output=True)
    tracking.finish_pipeline(tracked, pipeline, "FINISHED")
    assert tracking.upload_all(tracked).left == {}

    client = mlflow_store.connect(tracked)
    first, second = trainings(tracked)
    assert first.id == killed.id
    for log, status in ((first, "KILLED"), (second, "FINISHED")):
        assert stored(client, log).info.status == status
        assert stored_curves(client, log) == curves(log)
        above = stored(client, RunLog(runs_folder(tracked) / pipeline)).info.run_id
        assert stored(client, log).data.tags["mlflow.parentRunId"] == above
    steps = [step for step, _, _ in stored_curves(client, second)["loss"]]
    assert steps == sorted(set(steps)), "no step twice"
    assert set(range(EVERY, STEPS + 1, EVERY)) <= set(steps), "none missing, of those before the kill neither"
    before, after = ({step: value for step, _, value in stored_curves(client, log)["loss"]} for log in (first, second))
    assert {step: after[step] for step in before} == before, "and the story is the same one"


def trainings(root: Path) -> list[RunLog]:
    return [log for log in all_runs(root) if log.start().values["kind"] == "train"]


def told(log: RunLog) -> int:
    return sum(event.kind == "metrics" for event in log.read())
