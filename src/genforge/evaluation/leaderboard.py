"""All numbers of a run in one table, of one protocol, with the floor and the ceilings always in it.

The floor is held-out real images, judged as generated ones are: nothing can be expected to do better. The ceilings are
the baselines: a model that does worse has learned little. Models are ranked by the mean over sampling seeds of one
metric; a mean, never the best of the seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from rich.table import Table

from genforge.evaluation.likelihood import Likelihood, require_comparable
from genforge.evaluation.metrics import METRICS, metric
from genforge.evaluation.protocol import Protocol, require_same
from genforge.settings import UserError

FLOOR = "floor"
BASELINE = "baseline"  # the family of ceilings
COLLAPSED = (
    "collapsed"  # the role of a model that draws the same over and over: its numbers are shown, its place is not
)
HEADINGS = ("rank", "model", "family")
BITS = "bits/dim"


def build(results: Iterable[Mapping[str, Any]], metric_name: str) -> dict[str, Any]:
    """The leaderboard from what the step `evaluate` wrote.

    Args:
        results: one mapping a recipe, and one named `floor`: name, family, origin, metrics, protocol; and, where they
            are known, images_per_second, steps, seconds and parameters.
        metric_name: of the metric to rank by.

    Returns:
        metric, protocol_name, protocol, and rows: the floor first, then models and ceilings from best to worst. Each
        row has name, role (floor, model, ceiling, collapsed), rank (1 is the best model; null for all others) and what
        `results` had.

    Raises:
        ProtocolMismatch: two results were judged in different ways, or two likelihoods are of different images.
        UserError: the floor is missing, results are of different sampling seeds, or some result lacks the metric to
            rank by.
    """
    results = list(results)
    ranking = metric(metric_name)
    if not any(result["name"] == FLOOR for result in results):
        raise UserError("the leaderboard has no floor: judge held-out real images with `genforge step evaluate floor`")
    protocol = require_same(
        (result["name"], Protocol.from_json(result["protocol"], result["name"])) for result in results
    )
    _check_seeds(results)
    require_comparable((result["name"], found) for result in results if (found := likelihood(result)) is not None)
    for result in results:
        if metric_name not in result["metrics"]:
            raise UserError(f"{result['name']} has no {ranking.title} to be ranked by")

    # Names decide between equal values, so that the same numbers always give the same table.
    ordered = sorted(results, key=lambda result: (ranking.key(result["metrics"][metric_name]["mean"]), result["name"]))
    rows = [_row(result, "floor") for result in ordered if result["name"] == FLOOR]
    rank = 0
    for result in ordered:
        if result["name"] == FLOOR:
            continue
        role = "ceiling" if result["family"] == BASELINE else COLLAPSED if result.get("collapsed") else "model"
        rank += role == "model"
        rows.append(_row(result, role, rank if role == "model" else None))
    return {"metric": metric_name, "protocol_name": protocol.name, "protocol": protocol.to_json(), "rows": rows}


def _check_seeds(results: Iterable[Mapping[str, Any]]) -> None:
    """A mean over other seeds, or over fewer, is another number."""
    seeds = {result["name"]: result["seeds"] for result in results if "seeds" in result}
    if len({tuple(found) for found in seeds.values()}) > 1:
        lines = "\n".join(f"  {name}: {found}" for name, found in seeds.items())
        raise UserError(f"results are means over different sampling seeds:\n{lines}\njudge all again (`dvc repro`)")


def _row(result: Mapping[str, Any], role: str, rank: int | None = None) -> dict[str, Any]:
    kept = {key: value for key, value in result.items() if key not in ("name", "protocol", "protocol_name")}
    return {"name": result["name"], "role": role, "rank": rank, **kept}


def columns(board: Mapping[str, Any]) -> list[str]:
    """The main metrics that every row has, in the order of `METRICS`, the one that ranks first."""
    common = [name for name in METRICS if all(name in row["metrics"] for row in board["rows"])]
    return [board["metric"], *(name for name in common if METRICS[name].main and name != board["metric"])]


def further(board: Mapping[str, Any]) -> list[str]:
    """All other metrics that some row has: too many for one table, and some only of models with a latent."""
    shown = columns(board)
    return [name for name in METRICS if name not in shown and any(name in row["metrics"] for row in board["rows"])]


def left_out(board: Mapping[str, Any]) -> dict[str, str]:
    """Metrics that the judge could not give, by title, with the reason."""
    rows = board["rows"]
    return {
        METRICS[name].title: why for row in rows for name, why in row.get("left_out", {}).items() if name in METRICS
    }


def likelihood(row: Mapping[str, Any]) -> Likelihood | None:
    """Of held-out images, where the model can tell it."""
    told = row.get("likelihood")
    return None if told is None else Likelihood.from_json(told)


def with_likelihoods(board: Mapping[str, Any]) -> bool:
    """Whether some row has a likelihood, so that there is a column of them."""
    return any(row.get("likelihood") for row in board["rows"])


def in_bits(row: Mapping[str, Any]) -> str:
    """The cell of a row in that column."""
    told = likelihood(row)
    return "" if told is None else told.in_bits()


def best_bits(board: Mapping[str, Any]) -> float | None:
    """The fewest bits per dimension of 8-bit images."""
    found = (likelihood(row) for row in board["rows"])
    return min((told.bits for told in found if told is not None and told.bits_of_eight), default=None)


def about_likelihoods(board: Mapping[str, Any]) -> list[str]:
    """What the column is, then how each model's number was found."""
    told = [(row["name"], found) for row in board["rows"] if (found := likelihood(row)) is not None]
    if not told:
        return []
    protocol = told[0][1].protocol
    first = (
        f"Bits/dim: -log2 of the probability of an image over its {protocol.values} values, the mean over "
        f"{protocol.images} images of the split `{protocol.split}` (digest {protocol.digest[:8]}, seed "
        f"{protocol.seed}) ± half of its 95% interval; ≤ marks a bound; lower is better"
    )
    return [first, *(f"Bits/dim of {name}: {found.how}; {found.nats:.2f} nats an image" for name, found in told)]


def collapses(board: Mapping[str, Any]) -> dict[str, str]:
    """Models that have collapsed, each with what its collapse consists in."""
    return {row["name"]: row["collapsed"] for row in board["rows"] if row["role"] == COLLAPSED}


def best(board: Mapping[str, Any], name: str) -> float | None:
    """The best mean of a metric that was drawn by something: the floor is real and takes no part."""
    values = [
        row["metrics"][name]["mean"] for row in board["rows"] if row["role"] != "floor" and name in row["metrics"]
    ]
    return min(values, key=METRICS[name].key) if values else None


def render(board: Mapping[str, Any]) -> Table:
    """The leaderboard for a terminal: mean ± half of its 95% interval, the best in bold."""
    from rich.box import SIMPLE_HEAD

    table = Table(
        title=f"protocol {board['protocol_name']}",
        title_style="dim",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in HEADINGS:
        table.add_column(heading)
    for name in columns(board):
        table.add_column(f"{METRICS[name].title} {METRICS[name].arrow}", justify="right", no_wrap=True)
    if with_likelihoods(board):
        table.add_column(f"{BITS} ↓", justify="right")
    table.add_column("images/s", justify="right")
    notes = [f"{name} has collapsed: {why}" for name, why in collapses(board).items()]
    notes += [f"no {title}: {why}" for title, why in left_out(board).items()]
    if notes:
        table.caption, table.caption_justify = "\n".join(notes), "left"
    bests = {name: best(board, name) for name in columns(board)}
    for row in board["rows"]:
        cells = []
        for name in columns(board):
            bold = row["role"] != "floor" and row["metrics"][name]["mean"] == bests[name]
            cells.append(f"[bold]{with_error(row, name)}[/bold]" if bold else with_error(row, name))
        if with_likelihoods(board):
            cells.append(in_bits(row))
        style = "dim" if row["role"] == "floor" else "cyan" if row["role"] == "ceiling" else None
        table.add_row(place(row), row["name"], row["family"], *cells, speed(row), style=style)
    return table


def markdown(board: Mapping[str, Any]) -> str:
    """The leaderboard for a page: the main metrics, then the others, then a line about each."""
    names, others = columns(board), further(board)
    lines = _rows_of(board, names, lambda row: [place(row), row["name"], row["family"]], HEADINGS, speeds=True)
    if others:
        lines += ["", *_rows_of(board, others, lambda row: [row["name"]], ("model",))]
    protocol = board["protocol"]
    about = (
        f"Protocol `{board['protocol_name']}`: {protocol['images']} images for each of the sampling seeds against "
        f"{protocol['reference_images']} of the split `{protocol['reference_split']}`; the mean, ± half of the "
        f"interval that holds the expectation over all seeds with 95%. The floor is held-out real images, the ceilings "
        f"are the baselines."
    )
    meanings = [
        f"- {METRICS[name].title}: {METRICS[name].meaning}; {METRICS[name].better} is better"
        for name in (*names, *others)
    ]
    meanings += [f"- {line}" for line in about_likelihoods(board)]
    reasons = [f"- no {title}: {why}" for title, why in left_out(board).items()]
    collapsed = [f"- {name} has collapsed: {why}; it has no rank" for name, why in collapses(board).items()]
    return "\n".join([*lines, "", about, "", *collapsed, *meanings, *reasons, ""])


def _rows_of(
    board: Mapping[str, Any],
    names: list[str],
    begin: Callable[[Mapping[str, Any]], list[str]],
    headings: Iterable[str],
    speeds: bool = False,
) -> list[str]:
    """A table in Markdown: what `begin` says of a row, its metrics with the best in bold, and its speed."""
    bests = {name: best(board, name) for name in names}
    headings, metrics = list(headings), [f"{METRICS[name].title} {METRICS[name].arrow}" for name in names]
    bits = speeds and with_likelihoods(board)
    fewest = best_bits(board)
    numbers = [*metrics, *([f"{BITS} ↓"] if bits else []), *(["images/s"] if speeds else [])]
    lines = [
        "| " + " | ".join([*headings, *numbers]) + " |",
        "|" + " --- |" * len(headings) + " ---: |" * len(numbers),
    ]
    for row in board["rows"]:
        cells = begin(row)
        for name in names:
            text = with_error(row, name)
            bold = text and row["role"] != "floor" and row["metrics"][name]["mean"] == bests[name]
            cells.append(f"**{text}**" if bold else text)
        if bits:
            told = likelihood(row)
            bold = told is not None and told.bits_of_eight and told.bits == fewest
            cells.append(f"**{in_bits(row)}**" if bold else in_bits(row))
        lines.append("| " + " | ".join([*cells, speed(row)] if speeds else cells) + " |")
    return lines


def comma_separated(board: Mapping[str, Any]) -> str:
    """The leaderboard for plots: a row each, the mean of every metric and its 95% interval."""
    names = [*columns(board), *further(board)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "name",
            "role",
            "rank",
            "family",
            *chain.from_iterable((name, f"{name}_low", f"{name}_high") for name in names),
            "bits_per_dimension",
        ]
    )
    for row in board["rows"]:
        values = [row["metrics"].get(name, {}).get(part, "") for name in names for part in ("mean", "low", "high")]
        told = likelihood(row)
        bits = told.bits if told is not None and told.bits_of_eight else ""
        writer.writerow([row["name"], row["role"], row["rank"] or "", row["family"], *values, bits])
    return text.getvalue()


def place(row: Mapping[str, Any]) -> str:
    return str(row["rank"]) if row["role"] == "model" else row["role"]


def with_error(row: Mapping[str, Any], name: str) -> str:
    """Mean ± half of its interval, as a person reads it; nothing where the row has none."""
    if name not in row["metrics"]:
        return ""
    found = row["metrics"][name]
    return f"{METRICS[name].show(found['mean'])} ± {METRICS[name].show(half_width(found))}"


def half_width(found: Mapping[str, Any]) -> float:
    """What stands behind ±: half of the interval of one metric."""
    return float((found["high"] - found["low"]) / 2)


def speed(row: Mapping[str, Any]) -> str:
    value = row.get("images_per_second")
    return "" if value is None else f"{value:,.0f}"
