"""The report: everything that a run found, on one page that opens anywhere."""

from __future__ import annotations

import csv
import importlib.metadata
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genforge.files import read_json, replacing_folder
from genforge.report.lineage import picture_name
from genforge.settings import UserError
from genforge.steps.project import Project

PACKAGES = (
    "genforge",
    "torch",
    "torchvision",
    "torch-fidelity",
    "optuna",
    "mlflow",
    "dvc",
    "prefect",
    "numpy",
    "pillow",
)

LATENT_PICTURES = ("reconstructions", "traversals", "interpolations", "arithmetic")


def run(project: Project, name: str | None = None) -> None:
    """Write results/report: index.html and its pictures.

    Raises:
        UserError: the leaderboard, the data's card or a model of the leaderboard is missing.
    """
    from genforge.report import page

    report = gather(project)
    with replacing_folder(project.report) as folder:
        page.write(report, folder)


def gather(project: Project) -> Any:
    """The content of the report, from the artifacts of the other steps: a `genforge.report.content.Report`."""
    from genforge.report.content import Report
    from genforge.steps.summary import NEXT

    board = read_json(project.leaderboard)
    names = [row["name"] for row in board["rows"] if row["role"] != "floor"]
    data = read_json(project.prepared / "card.json")
    return Report(
        board=board,
        data=data,
        real=_existing(project.prepared / "samples.png"),
        models=[_model(project, name) for name in names],
        searches=[search for name in names if (search := _search(project.search(name), name)) is not None],
        commands=[(command.format(model=data["name"]), meaning) for command, meaning in NEXT],
        chains={
            f"{data['name']}@{alias}": f"../{project.lineage.name}/{picture_name(alias)}" for alias in _aliases(board)
        },
        versions={"Python": platform.python_version(), **_versions()},
    )


def _aliases(board: Mapping[str, Any]) -> list[str]:
    """Those that the step `register` will offer the leaderboard's models to."""
    families = dict.fromkeys(row["family"].lower() for row in board["rows"] if row["role"] == "model")
    return ["staging", *(f"best-{family}" for family in families)] if families else []


def _model(project: Project, name: str) -> Any:
    from genforge.report.content import Model

    folder = project.model(name)
    best = read_json(project.search(name) / "best.json")
    own = best.get("defaults", {})
    return Model(
        name=name,
        card=read_json(folder / "model.json"),
        found={key: (own.get(key), value) for key, value in best["settings"].items() if own.get(key) != value},
        curves=read_curves(folder / "curves.csv"),
        samples=_existing(project.samples(name) / "grid.png"),
        density=_existing(folder / "density.png"),
        filmstrip=_existing(folder / "filmstrip.png"),
        latent={key: path for key in LATENT_PICTURES if (path := _existing(folder / f"latent-{key}.png")) is not None},
        trajectory=_existing(folder / "trajectory.png"),
        interpolation=_existing(folder / "interpolation.png"),
        copies=_existing(project.gates / f"{name}-copies.png"),
        gates=_gates(project.gates / f"{name}.json"),
    )


def _gates(path: Path) -> list[dict[str, Any]]:
    """What the gates found of a model; a baseline is not asked."""
    return list(read_json(path)["gates"]) if path.exists() else []


def _search(folder: Path, name: str) -> Any | None:
    """None when the recipe was not searched."""
    from genforge.report.content import Search

    table = folder / "trials.csv"
    if not table.exists():
        return None
    with table.open(newline="", encoding="utf-8") as file:
        return Search(name, read_json(folder / "best.json"), list(csv.DictReader(file)))


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Columns of a curves.csv as (step, value) lists, in the file's order; empty cells and what is not finite left out.

    Raises:
        UserError: the file has no column `step`, or a cell is no number.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        columns = list(table.fieldnames or [])
        if columns and "step" not in columns:
            raise UserError(f"{path}: should have a column `step`, but has {', '.join(columns)}")
        curves: dict[str, list[tuple[int, float]]] = {column: [] for column in columns if column != "step"}
        for row in table:
            for column, points in curves.items():
                if row[column]:
                    try:
                        step, value = int(float(row["step"])), float(row[column])
                    except ValueError:
                        raise UserError(
                            f"{path}: {column} is {row[column]!r} at step {row['step']!r}: no number"
                        ) from None
                    if math.isfinite(value):
                        points.append((step, value))
    return curves


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _versions() -> dict[str, str]:
    """Of the packages that took part, without the part that only names a build (`+cpu`)."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}
