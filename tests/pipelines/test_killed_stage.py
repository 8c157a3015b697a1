"""A stage that was killed in the middle goes on where it was, and DVC's run cache works all the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from genforge.files import digest_file
from genforge.steps import ingest, prepare, resolve
from genforge.steps.project import Project
from tests.waiting import wait_for

PARAMS = """
data: {name: digits, source: digits}
recipes:
  vae: {from: vae, training: {steps: 300, batch_size: 16, checkpoint_every: 20, log_every: 20}}
"""
PIPELINE = f"""
stages:
  train:
    cmd: {sys.executable} -m genforge.cli step train vae
    deps: [data/prepared, results/recipes/vae.json]
    outs: [results/models/vae]
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_was_and_the_run_cache_works(
    tmp_path: Path,
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    project = Project.load(tmp_path)
    for step in (ingest, prepare, resolve):
        step.run(project)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)

    # DVC alone is killed, in the middle of the training.
    dvc = repro(tmp_path)
    kept = tmp_path / ".genforge" / "checkpoints"
    wait_for(lambda: any(int(path.name.removeprefix("step-")) >= 20 for path in kept.rglob("step-*")))
    stages = psutil.Process(dvc.pid).children(recursive=True)
    for stage in stages:
        stage.suspend()  # so that it is not over before the second one has asked
    second = repro(tmp_path)
    told = second.communicate()[0]
    assert second.returncode != 0 and f"(PID {dvc.pid}): " in told  # a second one is told by DVC who the first is
    for stage in stages:
        stage.resume()
    dvc.kill()
    dvc.communicate()
    _, alive = psutil.wait_procs(stages, timeout=60)
    assert not alive

    # The next one goes on, though DVC has deleted the outputs; what was cut off is not in the way.
    again = repro(tmp_path)
    output = again.communicate()[0]
    assert again.returncode == 0, output
    resumed = re.search(r"training vae from step (\d+)", output)
    assert resumed and int(resumed[1]) >= 20, output

    # The run cache restores the same weights without a step, once outputs and lock are gone.
    weights = tmp_path / "results" / "models" / "vae" / "weights.safetensors"
    digest = digest_file(weights)
    shutil.rmtree(weights.parent)
    (tmp_path / "dvc.lock").unlink()
    restored = repro(tmp_path)
    output = restored.communicate()[0]
    assert restored.returncode == 0 and "Running stage" not in output, output
    assert digest_file(weights) == digest


def repro(folder: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "GENFORGE_UPLOADER": "off"}
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
