"""What a person sees when a run has ended: how models compare, where things lie, what is staged, what to try next."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from genforge.files import read_json
from genforge.progress import PIPED_COLUMNS
from genforge.steps.project import Project

NEXT = (
    ("genforge ui", "compare runs in MLflow, and trials in Optuna's dashboard"),
    ("genforge sample {model}@staging -n 64 --out grid.png", "draw from the staged model"),
    ("genforge judge PATH", "score any folder of images by the same judge"),
    ("genforge recipes", "the library of ready recipes for params.yaml"),
    ("dvc repro", "the same stages by hand; now it finds nothing to do"),
)


def summarise(project: Project, headline: str) -> None:
    """Print the leaderboard and everything that a newcomer asks next, on standard output."""
    import sys

    from rich.console import Console

    from genforge.evaluation.leaderboard import render

    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS, highlight=False)
    registered = read_json(project.registered)
    console.print(headline, style="bold")
    console.print()
    console.print(render(read_json(project.leaderboard)))
    console.print()
    name = project.config.data.name
    staging = registered["staging"]
    places = {
        "report": project.report / "index.html",
        "pictures": f"{project.results / 'samples'}/*/grid.png, {project.results / 'models'}/*/filmstrip.png",
        "staging": f"{name}@staging is {staging['holder']}",
        "why": staging["reason"],
    }
    for title, text in places.items():
        console.print(f"{title:10} {text}", soft_wrap=True, markup=False)
    console.print(
        "\nTo try next" + ("" if _activated() else ", after `. .venv/bin/activate`"), style="bold", markup=False
    )
    commands = [command.format(model=name) for command, _ in NEXT]
    for command, (_, meaning) in zip(commands, NEXT, strict=True):
        console.print(f"  {command:{max(map(len, commands))}}  {meaning}", soft_wrap=True, markup=False)


def pictures(results: Path) -> Iterator[tuple[str, str]]:
    """Name and `data:` address of every recipe's sample grid."""
    for path in sorted((results / "samples").glob("*/grid.png")):
        yield path.parent.name, data_address(path)


def data_address(picture: Path) -> str:
    """A PNG as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def _activated() -> bool:
    import os

    return "VIRTUAL_ENV" in os.environ
