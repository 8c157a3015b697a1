"""What a command has no use for, it does not import: torch takes a second and 200 MB, MLflow two, Prefect one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genforge import cli
from genforge.evaluation.protocol import Protocol
from genforge.files import write_json
from genforge.pictures import grid, save_png
from genforge.steps import checked, ingest, prepare, rank, resolve
from genforge.steps.project import Project

HEAVY = {"torch", "torchvision", "mlflow", "optuna", "prefect", "dvc", "pandas", "scipy", "sklearn", "matplotlib"}
# A command, and what of HEAVY it may import.
COMMANDS = {
    "--help": "",
    "preset mnist --device cpu --out other.yaml": "",
    "leaderboard": "",
    "provenance picture.png": "",
    "step ingest": "",
    "step prepare": "",
    "step search box": "",
    "step rank": "",
    "step register": "mlflow pandas scipy",
}
PROGRAM = f"""
import sys
from genforge.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(*({HEAVY} & set(sys.modules)))
sys.exit(status)
"""
SETTINGS = "search: {trials: 0}\ndevice: cpu\nevaluation: {images: 50}\nrecipes: {box: {from: box}}\n"


@pytest.fixture
def judged(tmp_path: Path, made_once: Callable[[str, Callable[[Path], object]], Path], tracked: Path) -> Path:
    """A project whose models are judged, with some run in its log, which every command looks after."""
    return shutil.copytree(made_once("judged", _judged), tmp_path, dirs_exist_ok=True)


def _judged(folder: Path) -> None:
    (folder / "params.yaml").write_text(SETTINGS)
    project = Project.load(folder)
    checked.ensure(project)
    for step in (resolve, ingest, prepare):
        step.run(project)
    seen = Protocol("classifier", "e", "features", "logits", "none", "float32", "d", "train", 100, 50, {}, 0, {})
    score = {"mean": 1.0, "std": 0.1, "low": 0.9, "high": 1.1, "values": [1.0] * 3}
    for name, family in (("floor", "real"), ("box", "baseline")):
        found = {"name": name, "family": family, "origin": name, "metrics": {"fid": score}}
        write_json(project.evaluation(name), {**found, "protocol": seen.to_json(), "protocol_name": seen.name})
    write_json(project.model("box") / "model.json", {"steps": 0, "seconds": 1.0, "parameters": 0})
    write_json(project.samples("box") / "card.json", {"images_per_second": 1000.0})
    rank.run(project)
    (project.state / "runs").mkdir()
    save_png(folder / "picture.png", grid(np.zeros((4, 8, 8, 1), np.uint8), 2))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_start_imports_nothing_that_it_has_no_use_for(judged: Path, command: str) -> None:
    environment = {**os.environ, "GENFORGE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()], cwd=judged, env=environment, capture_output=True, text=True
    )
    said_nothing = command.startswith("provenance")  # of a black picture, which is status 1 for programs
    assert done.returncode == int(said_nothing), done.stderr
    assert set(done.stdout.splitlines()[-1].split()) <= set(COMMANDS[command].split())


def test_settings_that_were_found_right_are_checked_again_when_they_change(
    judged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(judged)
    assert cli.main(["step", "rank"]) == 0
    (judged / "params.yaml").write_text(SETTINGS.replace("{from: box}", "{from: box, training: {stepz: 1}}"))
    for _ in range(2):
        assert cli.main(["step", "rank"]) == 2
        assert "did you mean `steps`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "looks"),
    [({}, str(cli.LOOKS_BEFORE_SLEEP)), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_wait_awake_for_a_moment_or_as_the_user_says(told: dict[str, str], looks: str) -> None:
    """OpenMP itself says what it was told, when torch loads it."""
    program = "from genforge.cli import set_environment; set_environment(); import torch"
    undecided = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = {**undecided, "OMP_DISPLAY_ENV": "verbose", **told}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {looks}
