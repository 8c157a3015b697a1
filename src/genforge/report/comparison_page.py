"""A page about two models: the table, how far apart they are as chance goes, and the same seeds of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genforge.evaluation.metrics import METRICS
from genforge.files import write_text
from genforge.pictures import save_png, sheet
from genforge.report.figures import LIGHT, Theme, _axes, _clipped, _figure, _save

SHOWN, COLUMNS = 64, 8  # images of each model
TICKS = (-1000, -100, -10, -4, -2, 0, 2, 4, 10, 100, 1000)  # standard errors


def write(told: Mapping[str, Any], first: np.ndarray, second: np.ndarray, folder: Path) -> None:
    """Fill `folder` with index.html and its pictures.

    Args:
        told: what `genforge.steps.compare.compare` returns.
        first, second: images uint8 (n, height, width, channels), or points float32 (n, 1, 1, 2), of the same seed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    save_png(folder / "first.png", sheet(first, COLUMNS))
    save_png(folder / "second.png", sheet(second, COLUMNS))
    differences(folder / "differences.png", told)
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined)
    write_text(folder / "index.html", environment.get_template("comparison.html").render(told=told, metrics=METRICS))


def differences(path: Path, told: Mapping[str, Any], theme: Theme = LIGHT) -> None:
    """A point a metric with its interval, in standard errors; to the right the first is better."""
    figure = _figure(theme, width=5.8, height=0.36 * len(told["metrics"]) + 1.0)
    axes = _axes(figure, theme)
    for place, (name, found) in enumerate(told["metrics"].items()):
        sign = -1.0 if METRICS[name].better == "lower" else 1.0
        error = found["standard_error"]
        away = sign * found["difference"] / error if error > 0 else 0.0
        reach = (found["high"] - found["difference"]) / error if error > 0 else 0.0
        axes.errorbar(away, place, xerr=reach, fmt="o", color=theme.colour(0), capsize=3, markersize=5, linewidth=1.4)
    axes.axvline(0.0, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(told["metrics"])), [METRICS[name].title for name in told["metrics"]], fontsize=9)
    axes.set_ylim(len(told["metrics"]) - 0.5, -0.5)
    axes.set_xscale("symlog", linthresh=4.0)
    low, high = axes.get_xlim()
    axes.set_xticks(shown := [tick for tick in TICKS if low <= tick <= high], [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
    left, right = _clipped(told["second"], 24), _clipped(told["first"], 24)
    axes.set_xlabel(f"standard errors, 95% interval  (left: {left} is better, right: {right})")
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    _save(figure, path, theme)
