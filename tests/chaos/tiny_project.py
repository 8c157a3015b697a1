"""A project in which a recipe of every objective trains for seconds, and the environment of its commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from genforge.catalog import library, resolve

ROOT = Path(__file__).parents[2]
TRIALS = 3
_RESULTS = ("search", "models", "curves", "samples", "evaluations", "metrics", "report")
FORGOTTEN = [f"results/{name}" for name in _RESULTS]
FORGOTTEN += [".genforge/checkpoints", ".genforge/search", ".dvc/cache/runs"]
HEAD_START = ["data/raw", "data/prepared", "results/code", "results/recipes", "results/extractor"]
STEPS = {"steps": 400, "checkpoint_every": 10, "log_every": 5, "batch_size": 16}


def settings(recipes: Iterable[str], workers: int = 2) -> dict[str, Any]:
    """params.yaml. A space with one choice makes every trial of a search the same: then each has to come to the same
    value, whatever happened to it on the way, and training gets the same settings, however many workers there were."""
    entries: dict[str, Any] = {}
    for name in recipes:
        recipe = resolve(name, {"from": name})
        entry: dict[str, Any] = {"from": name}
        if recipe.search.space:
            batch_size = STEPS["batch_size"]
            entry["training"] = dict(STEPS)
            space: dict[str, Any] = dict.fromkeys(recipe.search.space)
            entry["search"] = {"space": space | {"training.batch_size": {"choices": [batch_size]}}}
        entries[name] = entry
    return {
        "seed": 0,
        "device": "cpu",
        "data": {"name": "digits", "source": "digits", "folder": "data/incoming"},
        "extractor": {"steps": 20, "width": 8},
        "evaluation": {"images": 100},
        "search": {"trials": TRIALS, "workers": workers, "steps_share": 0.2, "reports": 3, "images": 64},
        "registry": {"metric": "fid"},
        "gates": {"finite": {}, "better": {}, "coverage": {}},
        "recipes": entries,
    }


def one_of_every_objective() -> list[str]:
    """Names of recipes. That all the others are resumed to the same bits, tests/training/test_resume.py shows."""
    names = {resolve(name, {"from": name}).objective["name"]: name for name in sorted(library(), reverse=True)}
    return sorted(names.values())


def make(folder: Path, recipes: Iterable[str] | None = None, workers: int = 2) -> Path:
    """The project as a user would have cloned it, with these recipes, or with one of every objective; a search has so
    many workers."""
    folder.mkdir(parents=True)
    for name in ("src", "pipelines"):
        # With what Python has compiled already: no process need do it again.
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "data" / "incoming").mkdir(parents=True)  # a dependency of the pipeline, empty for embedded data
    said = settings(recipes or one_of_every_objective(), workers)
    (folder / "params.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.email", "someone@example.org"],
        ["git", "config", "user.name", "someone"],
        ["dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "a project"],
    ):
        subprocess.run(command, cwd=folder, env=environment(folder), check=True)
    return folder


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of commands as a user types them in an activated environment, on one thread each, so that bits do not hang on how
    many there are, with temporary files in a folder of their own."""
    own = {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}", "HOME": str(folder / "home")}
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "GENFORGE_UPLOADER", "GENFORGE_PIPELINE_RUN", "VIRTUAL_ENV"):
        own.pop(name, None)
    temporary = folder.parent / f"{folder.name}-temporary"
    temporary.mkdir(exist_ok=True)
    own |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
        "GENFORGE_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONWARNINGS": "ignore",
    }
    return {**own, **(more or {})}


def begin_again(folder: Path, lock: str) -> None:
    """Forget the results of all stages that `lock` (the text of a dvc.lock) does not name, and all that could stand in
    for them, so that they have to be made again. What was tracked and registered stays."""
    for name in FORGOTTEN if lock else [*FORGOTTEN, *HEAD_START]:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (folder / "results").glob("*.*"):
        path.unlink()
    if lock:
        (folder / "dvc.lock").write_text(lock)
    else:
        (folder / "dvc.lock").unlink(missing_ok=True)
