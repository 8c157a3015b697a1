"""The step `train` by two processes: one run, one result, and neither outlives the other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from genforge.files import digest_file
from genforge.processes import Identity, words_of
from genforge.steps import ingest, prepare, resolve
from genforge.steps.project import Project
from genforge.tracking.run_log import all_runs
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PARAMS = """
processes: 2
data: {name: digits, source: digits}
recipes:
  vae: {from: vae, training: {steps: 120, batch_size: 16, checkpoint_every: 20, log_every: 10}}
"""
COMMAND = [sys.executable, "-m", "genforge.cli", "step", "train", "vae"]
TERMINATED, MISTAKE = 143, 2


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "params.yaml").write_text(PARAMS)
    project = Project.load(tmp_path)
    ingest.run(project)
    prepare.run(project)
    resolve.run(project)
    return project


def weights(project: Project) -> str:
    return digest_file(project.model("vae") / "weights.safetensors")


def straight(project: Project, elsewhere: Path) -> str:
    """Digest of the weights of a run that nobody stopped."""
    shutil.copytree(project.root, elsewhere)
    done = subprocess.run(COMMAND, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("120/120 steps") == 1, "the first of them is heard, and no other"
    (run,) = all_runs(elsewhere)
    assert run.status() == "FINISHED"
    return weights(Project.load(elsewhere))


def started(project: Project) -> tuple[subprocess.Popen[str], Identity]:
    """The step, and the process beside it, once they have a checkpoint behind them."""
    step = subprocess.Popen(COMMAND, cwd=project.root, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: step.poll() is not None or list(project.state.glob("checkpoints/vae/*/step-*2?")))
    wait_for(lambda: others(step))
    return step, others(step)[0]


def others(step: subprocess.Popen[str]) -> list[Identity]:
    assert step.poll() is None
    children = [child.pid for child in psutil.Process(step.pid).children()]
    found = [Identity.of(pid) for pid in children if "genforge.steps.together" in words_of(pid)]
    return [identity for identity in found if identity is not None]


def test_what_ends_one_ends_both_and_they_go_on_together(project: Project, tmp_path: Path) -> None:
    whole = straight(project, tmp_path / "elsewhere")

    step, other = started(project)
    step.terminate()
    step.communicate(timeout=240)
    assert step.returncode == TERMINATED
    wait_for(other.is_gone)

    step, other = started(project)  # it may not have met the other yet
    os.kill(other.pid, signal.SIGKILL)
    _, told = step.communicate(timeout=240)
    assert step.returncode == MISTAKE
    assert "process 1 of 2 ended with status -9" in told
    assert "vae-1.log" in told

    assert subprocess.run(COMMAND, cwd=project.root, capture_output=True, check=False).returncode == 0
    assert weights(project) == whole
    ends = [run.status() for run in all_runs(project.root)]
    assert ends.count("FINISHED") == 1
    assert set(ends) <= {"FINISHED", "FAILED", "KILLED"}
