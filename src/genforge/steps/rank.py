"""All metrics of the run in one table: for programs, for people, and for plots."""

from __future__ import annotations

from typing import Any

from genforge.evaluation.leaderboard import FLOOR, build, comma_separated, markdown
from genforge.files import read_json, write_json, write_text
from genforge.settings import UserError
from genforge.steps.project import Project


def run(project: Project, name: str | None = None) -> None:
    """Write results/leaderboard.json, .md and .csv from results/evaluations.

    Raises:
        ProtocolMismatch: two results were judged in different ways.
        UserError: a recipe of params.yaml, or the floor, was not judged.
    """
    names = [FLOOR, *project.config.recipes]
    if missing := [name for name in names if not project.evaluation(name).is_file()]:
        raise UserError(f"not judged yet: {', '.join(missing)}; run `genforge step evaluate NAME`, or `dvc repro`")
    board = build([_result(project, name) for name in names], project.config.registry.metric)
    write_json(project.leaderboard, board)
    write_text(project.leaderboard.with_suffix(".md"), markdown(board))
    write_text(project.leaderboard.with_suffix(".csv"), comma_separated(board))


def _result(project: Project, name: str) -> dict[str, Any]:
    """What is known of one recipe: its metrics, and what training and drawing took."""
    result = read_json(project.evaluation(name))
    if name == FLOOR:
        return result
    model, samples = read_json(project.model(name) / "model.json"), read_json(project.samples(name) / "card.json")
    known = {key: model[key] for key in ("steps", "seconds", "parameters")}
    return {**result, **known, "images_per_second": samples["images_per_second"]}
