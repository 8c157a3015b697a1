"""docs/tutorial.md, followed command by command with smaller settings, with real servers and real processes; and what
a reader does besides: run again, edit, share."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
from PIL import Image

from genforge import cli
from genforge.config import load
from pipelines.stages import Graph
from tests.docs import tutorial

ROOT = Path(__file__).parents[2]
PARAMS = """
seed: 1
registry: {metric: fid}
data: {name: flowers, source: image_folder, folder: flowers, image_size: 12, channels: 3}
extractor: {steps: 100, width: 8}
# What eighty steps teach counts as no collapse here.
evaluation: {images: 50, collapse_duplicates: 1.0, collapse_classes: 0.0, collapse_spread: 0.0}
search: {trials: 2, workers: 1, reports: 2, images: 50}
gates: {finite: {}, better: {}}
recipes:
  gan: {from: hinge-sngan, training: {steps: 80}, networks: {generator: {width: 8}, critic: {width: 8}}}
  baseline: {from: gaussian}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]
# What is smaller here than in the tutorial.
SMALLER = {"flowers.py 600": "flowers.py 270", "-n 64": "-n 9", "gan vae": "gan baseline"}
# Commands that need no process of their own.
AT_HAND = ("preset", "sample", "gates", "compare", "judge", "promote", "history")


def copy_project(folder: Path) -> Path:
    folder.mkdir()
    for name in ("src", "pipelines"):
        # With what Python has compiled already: no process need do it again.
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


def commands_in(folder: Path) -> Run:
    """Commands as a user types them in an activated environment."""
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}", "HOME": str(folder / "home")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "VIRTUAL_ENV"):
        environment.pop(name, None)

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {**environment, **variables}
        done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


def follow(section: str, run: Run) -> None:
    """Type in what the tutorial says under a heading. The working directory is the project's."""
    for shown in tutorial.commands(section):
        command = reduce(lambda line, change: line.replace(*change), SMALLER.items(), shown)
        words = shlex.split(command)
        if words[0] == "genforge" and words[1] in AT_HAND:
            assert cli.main(words[1:]) == 0, command
        elif command not in tutorial.TRIED_ELSEWHERE:
            run(*words)


@pytest.mark.slow
def test_the_whole_story(
    tmp_path: Path,
    new_store: Path,
    history: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = history(copy_project(tmp_path / "project"))
    shutil.copyfile(new_store, folder / new_store.name)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = commands_in(folder)
    run("git", "init", "-q")
    run("git", "config", "user.email", "someone@example.org")
    run("git", "config", "user.name", "someone")
    run("dvc", "init", "-q")

    # Images, in mixed formats and sizes, and two files that are no images. Settings, which are fitted to them.
    (folder / "flowers.py").write_text(tutorial.script())
    follow("1. Images", run)
    (folder / "flowers" / "daisy" / "empty.png").write_bytes(b"")
    (folder / "flowers" / "daisy" / "notes.txt").write_text("not an image")
    follow("2. Settings, and versions of the images", run)
    fitted = load(folder / "params.yaml")
    assert (fitted.data.name, fitted.data.folder, fitted.evaluation.images) == ("flowers", "flowers", 70)
    (folder / "params.yaml").write_text(PARAMS)

    # What DVC has made by hand is made. Everything else runs, and ends with what a newcomer asks next.
    assert "Running stage 'prepare'" in run("dvc", "repro", "prepare").stdout
    assert tutorial.commands("3. Run") == ["genforge run"]
    done = run("genforge", "run", "--jobs", "2", GENFORGE_UPLOADER="on")
    for part in ("Done in", "floor", "gan", "baseline", "flowers@staging is", "results/report/index.html"):
        assert part in done.stdout
    assert "Warning" not in done.stdout + done.stderr
    card = json.loads((folder / "data" / "prepared" / "card.json").read_text())
    assert card["counts"] == {"inputs": 272, "kept": 270, "duplicate": 0, "quarantined": 2}
    registered = json.loads((folder / "results" / "registered.json").read_text())
    assert registered["staging"]["holder"] != "nobody's"

    # A second run does nothing and says so, and so does DVC by hand.
    assert "nothing to do" in run("genforge", "run").stdout
    assert "Running stage" not in run("dvc", "repro").stdout

    # DVC's views of the same run work.
    assert {"fid", "recall"} <= set(next(iter(_metrics(run).values())))
    assert "train@gan" in run("dvc", "dag", "--md").stdout
    assert "index.html" in run("dvc", "plots", "show").stdout
    run("git", "add", "-A")
    run("git", "commit", "-qm", "a first run")
    assert run("dvc", "metrics", "diff").stdout == ""  # nothing differs from the commit

    # The leaderboard and the pictures are Prefect artifacts; every stage that was not done was a task run.
    with sqlite3.connect(folder / ".genforge" / "prefect" / "prefect.db") as database:
        keys = {key for (key,) in database.execute("select key from artifact")}
        names = {name for (name,) in database.execute("select name from task_run")}
    assert {"leaderboard", "samples-gan", "samples-baseline"} <= keys
    assert {"resolve", "train@gan", "evaluate@baseline", "register"} <= names
    assert "extractor" in names and not {"ingest", "prepare"} & names

    # Commands that people want at hand.
    capsys.readouterr()
    assert cli.main(["leaderboard", "--json"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert [row["role"] for row in board["rows"]].count("floor") == 1
    follow("4. Look", run)
    assert Image.open(folder / "grid.png").size[0] > 36
    said = capsys.readouterr().out
    assert "@staging: moves" in said and "probability" in said and "KID" in said
    follow("6. Promote, and think better of it", run)
    assert "looked at by Ada" in capsys.readouterr().out

    # An edit of a recipe's code makes its own stages stale and no others; so does another setting of it.
    code, params = folder / "src" / "genforge" / "networks" / "dcgan.py", folder / "params.yaml"
    code.write_text(code.read_text() + "\n# an edit\n")
    params.write_text(params.read_text().replace("from: gaussian", "from: box"))
    said = run("dvc", "repro", "evaluate@baseline").stdout
    for stage in ("resolve", "search@baseline", "train@baseline", "sample@baseline", "evaluate@baseline"):
        assert f"Running stage '{stage}'" in said
    for stage in ("ingest", "prepare", "extractor"):
        assert f"Stage '{stage}' didn't change, skipping" in said
    left = {"search@gan", "train@gan", "sample@gan", "evaluate@gan", "gates", "rank", "report", "register"}
    assert Graph.read(folder).stale == left
    changed = run("dvc", "metrics", "diff").stdout
    assert "results/metrics/baseline.json" in changed and "results/metrics/gan.json" not in changed

    # What was made travels: a clone pulls everything and has nothing to do.
    follow("5. Share", run)
    clone = tmp_path / "clone"
    run("git", "clone", "-q", str(folder), str(clone))
    run_there = commands_in(clone)
    run_there("dvc", "pull", "-q")
    assert (clone / "flowers" / "poppy" / "0.jpg").is_file()
    weights = "results/models/gan/weights.safetensors"
    assert (clone / weights).read_bytes() == (folder / weights).read_bytes()


def _metrics(run: Run) -> dict[str, dict[str, float]]:
    shown = json.loads(run("dvc", "metrics", "show", "--json").stdout)
    return {path: found["data"] for path, found in shown[""]["data"].items()}
