"""A project as a team would keep it, in which all that comes before the leaderboard is one stage, and so one process.

The stages' commands are the real ones; only that `resolve` to `report` share an interpreter, which spares its start a
dozen times, is different from dvc.yaml. The images are a folder of the user's, which DVC tracks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
IMAGES = "my-images"
STEPS = """
import importlib
from genforge.ownership import stop_on_signals
from genforge.steps.project import Project
stop_on_signals()
project = Project.load()
def step(name, recipe=None):
    importlib.import_module(f"genforge.steps.{name}").run(project, recipe)
"""
BEFORE_MODEL = STEPS + "step('ingest'); step('prepare')\n"
MODEL = (
    STEPS
    + """
for name in ("resolve", "extractor"):
    step(name)
for recipe in project.config.recipes:
    for name in ("search", "train", "sample", "evaluate"):
        step(name, recipe)
step("evaluate", "floor")
for name in ("gates", "rank", "report"):
    step(name)
"""
)
PIPELINE = {
    "stages": {
        "prepare": {
            "cmd": "python prepare.py",
            "deps": [IMAGES, "prepare.py"],
            "params": ["data"],
            "outs": ["data/raw", "data/prepared"],
        },
        "model": {
            "cmd": "python model.py",
            "deps": ["data/prepared", "model.py"],
            "params": ["recipes", "gates", "evaluation"],
            "outs": [
                *(f"results/{name}" for name in ("recipes", "extractor", "search", "models", "samples", "evaluations")),
                *(f"results/{name}" for name in ("metrics", "curves", "gates", "report")),
                *(f"results/leaderboard.{kind}" for kind in ("json", "md", "csv")),
            ],
        },
        "register": {
            "cmd": "genforge step register",
            "deps": ["results/leaderboard.json", "results/models", "results/gates"],
            "params": ["gates"],
            "outs": [{"results/registered.json": {"cache": False}}, {"results/verdicts": {"cache": False}}],
        },
    }
}
SETTINGS = {
    "seed": 0,
    "device": "cpu",
    "data": {"name": "shapes", "source": "image_folder", "folder": IMAGES, "image_size": 8, "channels": 1},
    "extractor": {"steps": 20, "width": 8},
    # What a model of four steps is called does not matter here.
    "evaluation": {
        "images": 50,
        "metrics": ["fid", "kid"],
        "collapse_duplicates": 1.0,
        "collapse_classes": 0.0,
        "collapse_spread": 0.0,
    },
    "search": {"trials": 0},
    "registry": {"metric": "fid"},
    "schedule": {"at_rest": 0.0, "drift_images": 20},
    "gates": {"finite": {}},
    "recipes": {"gan": {"from": "gan-mlp", "training": {"steps": 4, "batch_size": 16}}},
}


def draw_images(folder: Path, count: int, seed: int, bright: bool = False) -> None:
    """Gray squares with one lighter half, all different; `bright` ones come from another source."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = random.integers(0, 60, (8, 8), dtype=np.uint8)
        image[:, : random.integers(2, 6)] += np.uint8(random.integers(60, 120))
        Image.fromarray(255 - image if bright else image).save(folder / f"{seed}-{number}.png")


def make(folder: Path, settings: Mapping[str, object] | None = None, images: int = 180) -> Path:
    """The project in `folder`, committed on its branch, with a remote beside it and no `dvc.lock`."""
    folder.mkdir(parents=True)
    draw_images(folder / IMAGES, images, seed=0)
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (folder / "params.yaml").write_text(yaml.safe_dump({**SETTINGS, **(settings or {})}, sort_keys=False))
    (folder / "prepare.py").write_text(BEFORE_MODEL)
    (folder / "model.py").write_text(MODEL)
    (folder / ".gitignore").write_text("/data/\n/results/\n/.genforge/\n/mlflow.db*\n/mlruns/\n/home/\n__pycache__/\n")
    (folder / ".dvcignore").write_text(".genforge\nmlruns\n")
    initialise(folder)
    run(folder, "dvc", "add", "--quiet", IMAGES)
    commit(folder, "a project")
    return folder


def initialise(folder: Path) -> None:
    """Git, DVC, and a remote beside the folder."""
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    run(folder, "git", "config", "user.email", "someone@example.org")
    run(folder, "git", "config", "user.name", "someone")
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "remote", "add", "--quiet", "--default", "storage", "../remote")  # relative, as people write it


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)


def environment(folder: Path) -> dict[str, str]:
    """Of commands as a user types them in an activated environment."""
    own = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "GENFORGE_PIPELINE_RUN", "GENFORGE_WORKPLACES"):
        own.pop(name, None)
    return {**own, "GENFORGE_UPLOADER": "off", "PYTHONWARNINGS": "ignore", "GENFORGE_THREADS": "1"}


def run(folder: Path, *words: str, status: int = 0) -> str:
    """A command in the project; what it says."""
    done = subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == status, f"{words}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.stdout + done.stderr


def state_of(folder: Path) -> tuple[str, ...]:
    """What no run may change of a user's folder: commit, branch, index, files; but for our own store."""
    own = (".genforge", ".git", "mlruns")
    files = sorted(path.name for path in folder.iterdir() if path.name not in own and "mlflow.db" not in path.name)
    asked = [("rev-parse", "HEAD"), ("symbolic-ref", "HEAD"), ("status", "--porcelain")]
    return (*(run(folder, "git", *words) for words in asked), json.dumps(files))
