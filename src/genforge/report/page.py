"""The report as one folder that can be opened anywhere: index.html and its pictures, nothing from elsewhere.

No script, no font and no style is loaded from outside, and the page's own policy forbids it. Every text that comes from
an artifact is escaped.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from genforge.evaluation import leaderboard
from genforge.evaluation.metrics import METRICS
from genforge.files import write_text
from genforge.report import figures
from genforge.report.content import Model, Report, Search
from genforge.report.figures import THEMES, Mark, Theme

MOST_CURVES = 6  # panels of one model
NOT_CURVES = ("images_per_second",)  # a matter of the machine, not of the training
HIDDEN_PROTOCOL = ("versions", "settings")  # shown by themselves

LATENT_WORDS = {
    "reconstructions": "Held-out images, and below each what is left of it after its code.",
    "traversals": "One image's code with one dimension changed a row, the liveliest dimension first.",
    "interpolations": "Straight lines from the code of one held-out image to that of another.",
    "arithmetic": "Sums of codes: an image, then the same as it would be in each class; or the first less the second "
    "plus the third.",
}


@dataclass(frozen=True)
class Picture:
    """A picture of the page. file, dark: names beside index.html; dark is None where one serves both themes."""

    file: str
    dark: str | None
    width: int
    height: int
    alt: str


def write(report: Report, folder: Path) -> None:
    """Fill `folder` with index.html and its pictures."""
    pictures = _Pictures(folder)
    series = {row["name"]: i for i, row in enumerate(r for r in _ranked(report) if r["role"] == "model")}
    context = {
        "report": report,
        "board": report.board,
        "rows": report.board["rows"],
        "columns": [METRICS[name] for name in leaderboard.columns(report.board)],
        "ranking": METRICS[report.board["metric"]],
        "latent_words": LATENT_WORDS,
        "latent_spaces": {row["name"]: row["latent_space"] for row in report.board["rows"] if "latent_space" in row},
        "further": [METRICS[name] for name in leaderboard.further(report.board)],
        "best": {name: leaderboard.best(report.board, name) for name in METRICS},
        "headline": headline(report.board),
        "standing": standing(report.board),
        "with_likelihoods": leaderboard.with_likelihoods(report.board),
        "likelihood": leaderboard.likelihood,
        "best_bits": leaderboard.best_bits(report.board),
        "about_likelihoods": leaderboard.about_likelihoods(report.board),
        "left_out": leaderboard.left_out(report.board),
        "protocol": {k: v for k, v in report.board["protocol"].items() if k not in HIDDEN_PROTOCOL},
        "settings": {METRICS[name].title: found for name, found in report.board["protocol"]["settings"].items()},
        "bars": _bars(report, series, pictures),
        "scatter": _scatter(report, series, pictures),
        "real": pictures.copy(report.real, "real", f"a grid of training images of {report.data['name']}"),
        "models": [_model(model, series.get(model.name), pictures) for model in _in_order(report)],
        "searches": [_search(search, pictures) for search in report.searches],
        "balance": _balance(report, pictures),
        "half_width": leaderboard.half_width,
        "place": leaderboard.place,
        "speed": leaderboard.speed,
        "series": series,
        "themes": THEMES,
    }
    write_text(folder / "index.html", _template().render(context))


def headline(board: Mapping[str, Any]) -> str:
    """Who leads, in a few words."""
    models = [row for row in board["rows"] if row["role"] == "model"]
    if not models:
        collapsed = [row["name"] for row in board["rows"] if row["role"] == leaderboard.COLLAPSED]
        return (
            f"No model that has not collapsed ({', '.join(collapsed)})" if collapsed else "No model yet, only baselines"
        )
    return f"{models[0]['name']} leads {len(models)} models" if len(models) > 1 else f"{models[0]['name']} stands alone"


def standing(board: Mapping[str, Any]) -> str:
    """One sentence that sets the leader's number between the floor and the best ceiling."""
    metric = METRICS[board["metric"]]
    by_role = {role: [row for row in board["rows"] if row["role"] == role] for role in ("floor", "model", "ceiling")}
    if not by_role["model"]:
        return ""
    leader = by_role["model"][0]
    text = f"Its {metric.title} is {leaderboard.with_error(leader, metric.name)}"
    text += f" ({metric.better} is better)"
    if by_role["floor"]:
        text += f"; held-out real images, the floor, have {leaderboard.with_error(by_role['floor'][0], metric.name)}"
    if by_role["ceiling"]:
        ceiling = by_role["ceiling"][0]
        ours, theirs = (row["metrics"][metric.name]["mean"] for row in (leader, ceiling))
        text += f"; the best baseline, {ceiling['name']}, has {leaderboard.with_error(ceiling, metric.name)}"
        if not metric.is_better(ours, theirs):
            text += ", which the leader does not beat"
    return text + "."


class _Pictures:
    """Puts pictures into the folder under names that cannot leave it, and knows their sizes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy(self, path: Path | None, name: str, alt: str) -> Picture | None:
        if path is None:
            return None
        file = f"{_safe(name)}.png"
        shutil.copyfile(path, self._folder / file)
        return self._picture(file, None, alt)

    def draw(self, name: str, alt: str, chart: Callable[[Path, Theme], None]) -> Picture:
        """Draw a chart in every theme."""
        light, dark = (f"{_safe(name)}-{theme.name}.png" for theme in THEMES)
        for file, theme in zip((light, dark), THEMES, strict=True):
            chart(self._folder / file, theme)
        return self._picture(light, dark, alt)

    def _picture(self, file: str, dark: str | None, alt: str) -> Picture:
        with Image.open(self._folder / file) as image:
            return Picture(file, dark, image.width, image.height, alt)


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")


def _ranked(report: Report) -> list[Mapping[str, Any]]:
    return [row for row in report.board["rows"] if row["role"] != "floor"]


def _in_order(report: Report) -> list[Model]:
    """Models as they stand on the leaderboard."""
    places = {row["name"]: place for place, row in enumerate(report.board["rows"])}
    return sorted(report.models, key=lambda model: places.get(model.name, len(places)))


def _floor(report: Report, metric: str) -> float | None:
    found = [row["metrics"].get(metric) for row in report.board["rows"] if row["role"] == "floor"]
    return found[0]["mean"] if found and found[0] else None


def _mark(row: Mapping[str, Any], metric: str, series: Mapping[str, int]) -> Mark:
    return Mark(row["name"], series.get(row["name"]), tuple(row["metrics"][metric]["values"]))


def _bars(report: Report, series: Mapping[str, int], pictures: _Pictures) -> Picture | None:
    metric = METRICS[report.board["metric"]]
    marks = [_mark(row, metric.name, series) for row in _ranked(report)]
    if not marks:
        return None
    floor = _floor(report, metric.name)
    said = ", ".join(f"{mark.name} {metric.show(mark.mean)}" for mark in marks)
    alt = f"Bars of {metric.title}, {metric.better} is better: {said}"
    alt += f"; floor {metric.show(floor)}" if floor is not None else ""
    axis = f"{metric.title}, {metric.better} is better"
    return pictures.draw("leaderboard", alt, lambda path, theme: figures.bars(path, marks, floor, axis, theme))


def _scatter(report: Report, series: Mapping[str, int], pictures: _Pictures) -> Picture | None:
    if not {"precision", "recall"} <= set(leaderboard.columns(report.board)):
        return None
    marks = [(_mark(row, "precision", series), _mark(row, "recall", series)) for row in _ranked(report)]
    precision, recall = _floor(report, "precision"), _floor(report, "recall")
    floor = (precision, recall) if precision is not None and recall is not None else None
    said = ", ".join(f"{first.name} {first.mean:.2f} and {second.mean:.2f}" for first, second in marks)
    return pictures.draw(
        "precision-recall",
        f"Precision and recall: {said}",
        lambda path, theme: figures.precision_recall(path, marks, floor, theme),
    )


def _balance(report: Report, pictures: _Pictures) -> Picture | None:
    counts = {split: classes for split, classes in report.data.get("class_balance", {}).items() if classes}
    if not counts:
        return None
    fewest, most = (pick(n for classes in counts.values() for n in classes.values()) for pick in (min, max))
    alt = f"Images of each class in {', '.join(counts)}: from {fewest} to {most}"
    return pictures.draw("class-balance", alt, lambda path, theme: figures.class_balance(path, counts, theme))


def _model(model: Model, series: int | None, pictures: _Pictures) -> dict[str, Any]:
    shown = {name: points for name, points in model.curves.items() if name not in NOT_CURVES and points}
    shown = dict(list(shown.items())[:MOST_CURVES])
    curves = None
    if shown and series is not None:
        curves = pictures.draw(
            f"{model.name}-curves",
            f"Training curves of {model.name}: {', '.join(shown)}",
            lambda path, theme: figures.curves(path, shown, series, theme),
        )
    return {
        "name": model.name,
        "card": model.card,
        "found": model.found,
        "series": series,
        "curves": curves,
        "samples": pictures.copy(model.samples, f"{model.name}-samples", f"a grid of images drawn by {model.name}"),
        "density": pictures.copy(
            model.density, f"{model.name}-density", f"real points beside the log-density of {model.name} on the plane"
        ),
        "gates": model.gates,
        "latent": {
            key: pictures.copy(path, f"{model.name}-latent-{key}", f"{key} in the latent space of {model.name}")
            for key, path in model.latent.items()
        },
        "copies": pictures.copy(
            model.copies, f"{model.name}-copies", f"samples of {model.name}, each beside its nearest training image"
        ),
        "trajectory": pictures.copy(
            model.trajectory, f"{model.name}-trajectory", f"images of {model.name} on their way from noise"
        ),
        "filmstrip": pictures.copy(
            model.filmstrip if model.card["steps"] else None,  # what has a closed form has one moment only
            f"{model.name}-filmstrip",
            f"images of the same noise as {model.name} was trained, in time",
        ),
    }


def _search(search: Search, pictures: _Pictures) -> dict[str, Any]:
    metric = METRICS[search.best["metric"]]
    values: dict[str, dict[int, float]] = {"complete": {}, "pruned": {}}
    for trial in search.trials:
        if trial["value"] and trial["state"] in values:
            values[trial["state"]][int(trial["number"])] = float(trial["value"])
    history = importance = None
    if any(values.values()):
        better = metric.better
        history = pictures.draw(
            f"{search.name}-history",
            f"{metric.title} of each trial of the search of {search.name}; best {metric.show(search.best['value'])}",
            lambda path, theme: figures.search_history(
                path, values["complete"], values["pruned"], better, metric.title, theme
            ),
        )
    shares = search.best.get("importances") or {}
    if shares:
        said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        importance = pictures.draw(
            f"{search.name}-importance",
            f"Importance of settings for {search.name}: {said}",
            lambda path, theme: figures.importances(path, shares, theme),
        )
    states = [trial["state"] for trial in search.trials]
    return {
        "name": search.name,
        "best": search.best,
        "metric": metric,
        "trials": search.trials,
        "states": {state: states.count(state) for state in ("complete", "pruned", "failed") if state in states},
        "columns": [key for key in search.trials[0] if key not in ("reason",)] if search.trials else [],
        "history": history,
        "importance": importance,
    }


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, seconds=seconds, words=words)
    return environment.get_template("page.html")


def number(value: Any) -> str:
    """A value as a person reads it: thousands apart, four digits of a fraction, everything else as it is."""
    if isinstance(value, str):
        try:
            value = float(value) if not re.fullmatch(r"-?\d+", value) else int(value)
        except ValueError:
            return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def seconds(value: float) -> str:
    """A duration in its own unit."""
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def words(key: str) -> str:
    """A key as words."""
    return key.replace("_", " ")
