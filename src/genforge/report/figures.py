"""The report's charts, in one quiet style, for light and for dark pages. Plain values in, a PNG out.

matplotlib is imported inside the functions, and its `pyplot` not at all: there is no window and no global state.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genforge.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 160
WIDTH = 5.8  # inches of the leaderboard
SPAN_FOR_LOG = 25.0  # values that differ by more than this factor are drawn on a logarithmic axis


@dataclass(frozen=True)
class Theme:
    """Colours of a page: background, text, lesser text, lines, and one colour for each of a few series."""

    name: Literal["light", "dark"]
    paper: str
    ink: str
    muted: str
    line: str
    series: tuple[str, ...]

    def colour(self, index: int) -> str:
        return self.series[index % len(self.series)]


LIGHT = Theme(
    "light",
    "#ffffff",
    "#1f2328",
    "#69707a",
    "#dfe3e8",
    ("#2f5d8a", "#c05a2b", "#3c7d5a", "#8a4f8f", "#9a7b1f", "#4b6a6f"),
)
DARK = Theme(
    "dark",
    "#1a1d21",
    "#e6e8eb",
    "#98a0aa",
    "#353a41",
    ("#7fb0de", "#e8946a", "#7fc29c", "#c795cc", "#d8bb62", "#93b6bb"),
)
THEMES = (LIGHT, DARK)


@dataclass(frozen=True)
class Mark:
    """One contender in a chart. series: index of its colour, or None for a baseline, which is drawn in gray."""

    name: str
    series: int | None
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


def bars(path: Path, marks: Sequence[Mark], floor: float | None, axis: str, theme: Theme = LIGHT) -> None:
    """Means with every single value as a dot, best first as given, and the floor as a line.

    Bars begin at the floor, so that their length means something on either axis: on a linear one how far a contender
    is from real images, on a logarithmic one how many times.
    """
    figure = _figure(theme, height=0.4 * len(marks) + 0.95)
    axes = _axes(figure, theme)
    everything = [value for mark in marks for value in mark.values] + ([floor] if floor is not None else [])
    smallest, largest = min(everything), max(everything)
    logarithmic = smallest > 0 and largest / smallest > SPAN_FOR_LOG
    start = floor if floor is not None else (smallest / 1.5 if logarithmic else 0.0)
    for place, mark in enumerate(marks):
        colour, alpha = (theme.muted, 0.3) if mark.series is None else (theme.colour(mark.series), 0.85)
        axes.barh(place, mark.mean - start, left=start, height=0.5, color=colour, alpha=alpha, linewidth=0)
        axes.plot(mark.values, [place] * len(mark.values), "o", color=theme.ink, markersize=3.4, alpha=0.7, zorder=4)
        axes.annotate(
            _number(mark.mean),
            (max(*mark.values, start), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=theme.ink,
        )
    if floor is not None:
        axes.axvline(floor, color=theme.ink, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.annotate(
            f"floor {_number(floor)}",
            (floor, -0.85),
            xytext=(6, -2),
            textcoords="offset points",
            fontsize=8.5,
            color=theme.ink,
            va="top",
        )
    axes.set_yticks(range(len(marks)), [_clipped(mark.name, 24) for mark in marks], color=theme.ink, fontsize=9.5)
    axes.set_ylim(len(marks) - 0.45, -0.85)
    if logarithmic:
        _logarithmic(axes, "x")
        axes.set_xlim(smallest / 1.25, largest * 1.9)
    else:
        axes.set_xlim(min(0.0, smallest), largest * 1.12 if largest > 0 else 1.0)
    axes.set_xlabel(axis + (", logarithmic axis" if logarithmic else ""))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    _save(figure, path, theme)


def precision_recall(
    path: Path, marks: Sequence[tuple[Mark, Mark]], floor: tuple[float, float] | None, theme: Theme = LIGHT
) -> None:
    """Precision (fidelity) against recall (variety), both in 0..1; a contender is a pair of marks. The upper right is
    best."""
    figure = _figure(theme, width=4.6, height=4.2)
    axes = _axes(figure, theme)
    points: list[tuple[float, float, str]] = []
    for precision, recall in marks:
        colour = theme.muted if precision.series is None else theme.colour(precision.series)
        axes.plot(recall.values, precision.values, "o", color=colour, markersize=3.5, alpha=0.45, markeredgewidth=0)
        axes.plot(recall.mean, precision.mean, "o", color=colour, markersize=8, markeredgewidth=0)
        points.append((recall.mean, precision.mean, precision.name))
    if floor is not None:
        axes.plot(floor[1], floor[0], "D", color="none", markeredgecolor=theme.ink, markersize=7, markeredgewidth=1.2)
        points.append((floor[1], floor[0], "held-out real"))
    _write_names(axes, points, theme)
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.04, 1.06)
    axes.set_xlabel("recall (variety)")
    axes.set_ylabel("precision (fidelity)")
    axes.grid(color=theme.line, linewidth=0.6)
    _save(figure, path, theme)


def curves(path: Path, values: Mapping[str, Sequence[tuple[int, float]]], series: int, theme: Theme = LIGHT) -> None:
    """One small panel for each logged value, by training step."""
    columns = min(2, len(values))
    rows = math.ceil(len(values) / columns)
    figure = _figure(theme, width=2.55 * columns, height=1.75 * rows + 0.25)
    for place, (name, points) in enumerate(values.items()):
        axes = _axes(figure, theme, rows, columns, place)
        steps, numbers = zip(*points, strict=True)
        axes.plot(steps, numbers, color=theme.colour(series), linewidth=1.3, marker="o" if len(points) < 3 else "")
        axes.set_title(_clipped(name, 34), fontsize=8.5, color=theme.ink, loc="left", pad=5)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color=theme.line, linewidth=0.5)
        axes.locator_params(nbins=4)
        if place >= len(values) - columns:
            axes.set_xlabel("step", fontsize=7.5)
    _save(figure, path, theme)


def search_history(
    path: Path,
    complete: Mapping[int, float],
    pruned: Mapping[int, float],
    better: Literal["lower", "higher"],
    axis: str,
    theme: Theme = LIGHT,
) -> None:
    """Values by trial number, the best so far as a staircase, the recipe's own settings (trial 0) as a line."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(theme, width=4.8, height=3.0)
    axes = _axes(figure, theme)
    everything = [*complete.values(), *pruned.values()]
    colour = theme.colour(0)
    if pruned:
        axes.plot(
            list(pruned),
            list(pruned.values()),
            "o",
            color="none",
            markeredgecolor=theme.muted,
            markersize=6,
            label="pruned",
        )
    axes.plot(list(complete), list(complete.values()), "o", color=colour, markersize=6, label="complete")
    best, stairs = None, []
    for number in sorted(complete):
        value = complete[number]
        best = value if best is None else (min(best, value) if better == "lower" else max(best, value))
        stairs.append((number, best))
    if stairs:
        last = max([*complete, *pruned])
        numbers, values = zip(*[*stairs, (last, stairs[-1][1])], strict=True)
        axes.step(numbers, values, where="post", color=colour, linewidth=1.2, alpha=0.7, label="best so far")
    if 0 in complete:
        axes.axhline(
            complete[0], color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)), label="the recipe's own settings"
        )
    if everything and min(everything) > 0 and max(everything) / min(everything) > SPAN_FOR_LOG:
        _logarithmic(axes, "y")
        axis += ", logarithmic axis"
    axes.set_xlabel("trial")
    axes.set_ylabel(axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=theme.line, linewidth=0.6)
    legend = figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, labelcolor=theme.ink)
    legend.set_in_layout(True)
    _save(figure, path, theme)


def importances(path: Path, shares: Mapping[str, float], theme: Theme = LIGHT) -> None:
    """Share of each setting in what sets good trials apart, as given: largest first."""
    figure = _figure(theme, width=4.8, height=0.36 * len(shares) + 0.8)
    axes = _axes(figure, theme)
    for place, share in enumerate(shares.values()):
        axes.barh(place, share, height=0.5, color=theme.colour(0), alpha=0.85, linewidth=0)
        axes.annotate(
            f"{share:.0%}",
            (share, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=theme.ink,
        )
    names = [_clipped(name.removeprefix("training."), 36) for name in shares]
    axes.set_yticks(range(len(names)), names, color=theme.ink, fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(shares.values()) * 1.18)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    _save(figure, path, theme)


def class_balance(path: Path, counts: Mapping[str, Mapping[str, int]], theme: Theme = LIGHT) -> None:
    """Images of each class as bars, a panel for each split.

    Args:
        counts: by split, then by class; every split has the same classes.
    """
    figure = _figure(theme, width=2.4 * len(counts), height=2.0)
    for place, (split, classes) in enumerate(counts.items()):
        axes = _axes(figure, theme, 1, len(counts), place)
        places = range(len(classes))
        axes.bar(places, list(classes.values()), width=0.7, color=theme.colour(0), alpha=0.85, linewidth=0)
        axes.set_title(split, fontsize=8.5, color=theme.ink, loc="left", pad=5)
        if len(classes) <= 12 and max(len(name) for name in classes) <= 3:
            axes.set_xticks(list(places), list(classes), fontsize=7)
        else:
            axes.set_xticks([])
            axes.set_xlabel(f"{len(classes)} classes", fontsize=7.5)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color=theme.line, linewidth=0.5)
    _save(figure, path, theme)


def cost_and_quality(
    path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], cost: str, quality: str, theme: Theme = LIGHT
) -> None:
    """A line for each contender through its (cost, quality), both on logarithmic axes."""
    figure = _figure(theme, height=3.6)
    axes = _axes(figure, theme)
    for place, (name, points) in enumerate(lines.items()):
        costs, values = zip(*sorted(points), strict=True)
        axes.plot(costs, values, "o-", color=theme.colour(place), linewidth=1.3, markersize=4, label=_clipped(name, 24))
    for side in ("x", "y"):
        _logarithmic(axes, side)
    axes.set_xlabel(cost)
    axes.set_ylabel(quality)
    axes.grid(color=theme.line, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink)
    _save(figure, path, theme)


def lengths(path: Path, points: Sequence[tuple[float, float]], as_trained: float, theme: Theme = LIGHT) -> None:
    """FID of averages by their length (sigma_rel, FID), beside the FID of the model as it was trained."""
    figure = _figure(theme, width=4.6, height=3.0)
    axes = _axes(figure, theme)
    places, values = zip(*points, strict=True)
    axes.plot(places, values, "o-", color=theme.colour(0), linewidth=1.3, markersize=5)
    axes.axhline(as_trained, color=theme.muted, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.annotate(
        "as trained",
        (1, as_trained),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=theme.muted,
    )
    axes.set_xlabel("length of the average, sigma_rel")
    axes.set_ylabel("FID, lower is better")
    axes.set_ylim(0, 1.12 * max(*values, as_trained))
    axes.grid(color=theme.line, linewidth=0.5)
    _save(figure, path, theme)


def grid_of_samplers(path: Path, cells: Mapping[tuple[str, int], tuple[np.ndarray, str]], theme: Theme = LIGHT) -> None:
    """What each sampler (rows) draws at each number of steps (columns): a picture, uint8 (height, width, channels), and
    the words under it."""
    names, counts = list(dict.fromkeys(name for name, _ in cells)), sorted({count for _, count in cells})
    figure = _figure(theme, width=1.65 * len(counts) + 0.5, height=1.85 * len(names) + 0.2)
    for place, (name, count) in enumerate((name, count) for name in names for count in counts):
        axes = _axes(figure, theme, len(names), len(counts), place)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        if place < len(counts):
            axes.set_title(f"{count} steps" if count > 1 else "1 step", fontsize=8.5, color=theme.ink, pad=5)
        if count == counts[0]:
            axes.set_ylabel(_clipped(name, 20), color=theme.ink)
        if (name, count) not in cells:
            continue
        picture, words = cells[name, count]
        axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
        axes.set_xlabel(words, fontsize=6.5)
    _save(figure, path, theme)


def _figure(theme: Theme, width: float = WIDTH, height: float = 3.0) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=theme.paper, layout="constrained")


def _axes(figure: Figure, theme: Theme, rows: int = 1, columns: int = 1, place: int = 0) -> Axes:
    axes = figure.add_subplot(rows, columns, place + 1)
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.line)
    axes.tick_params(colors=theme.muted, labelsize=8, length=3)
    axes.xaxis.label.set_color(theme.muted)
    axes.yaxis.label.set_color(theme.muted)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
    return axes


def _logarithmic(axes: Axes, side: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers, few enough to read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log") if side == "x" else axes.set_yscale("log")
    ticks = axes.xaxis if side == "x" else axes.yaxis
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_locator(NullLocator())


def _number(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _write_names(axes: Axes, points: Sequence[tuple[float, float, str]], theme: Theme) -> None:
    """Beside every point (x, y, name) its name, on the side inside the chart, moved up where two names would meet."""
    apart = 0.052  # of the axis: the height of a line
    for left in (True, False):
        below = -math.inf
        for x, y, name in sorted((point for point in points if (point[0] > 0.72) == left), key=lambda point: point[1]):
            below = max(y, below + apart)
            axes.annotate(
                _clipped(name, 20),
                (x, below),
                xytext=(-12 if left else 12, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                fontsize=8.5,
                color=theme.ink,
            )


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _save(figure: Figure, path: Path, theme: Theme) -> None:
    """PNG without a date or a version inside: the same values give the same bytes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names are the user's: a dollar sign in one is no formula
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=theme.paper, metadata={"Software": None})
    with replacing(path) as file:
        file.write(buffer.getvalue())
