"""The card of a prepared data set: what came in, what became of it, and what the images look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from genforge import scatter
from genforge.data.splitting import DUPLICATE, KEPT, QUARANTINED, SPLITS

DOTS = 3000  # points of a picture, at most
ACROSS, ROWS = 10, 20  # samples: images in a row, and rows at most
CELL, GAP = 64, 2  # pixels: small images are enlarged by a whole number, up to this side


def counts(manifest: pl.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Inputs by verdict, kept ones by split and by class, and the reasons for which others were not kept."""
    kept = manifest.filter(pl.col("verdict") == KEPT)
    by_class = {(split, label): number for split, label, number in kept.group_by("split", "label").len().iter_rows()}
    return {
        "counts": {"inputs": len(manifest)}
        | {verdict: _where(manifest, verdict=verdict) for verdict in (KEPT, DUPLICATE, QUARANTINED)},
        "splits": {split: _where(kept, split=split) for split in SPLITS},
        "class_balance": {split: {name: by_class.get((split, name), 0) for name in classes} for split in SPLITS},
        "duplicates": _reasons(manifest, DUPLICATE),
        "quarantine": _reasons(manifest, QUARANTINED),
    }


def _where(table: pl.DataFrame, **values: str) -> int:
    return len(table.filter(**values))


def _reasons(manifest: pl.DataFrame, verdict: str) -> dict[str, int]:
    found = manifest.filter(verdict=verdict).group_by("reason").len().sort("len", "reason", descending=[True, False])
    return dict(found.iter_rows())


def moments(totals: np.ndarray, squares: np.ndarray, pixels: int, scale: float = 255.0) -> dict[str, list[float]]:
    """Mean and standard deviation a channel, from sums over `pixels` values each. Levels of 0..255 are brought to the
    scale 0..1; points have `scale` 1."""
    mean = totals / pixels
    return {
        "mean": [round(float(m) / scale, 6) for m in mean],
        "std": [round(float(s) / scale, 6) for s in np.sqrt(np.maximum(squares / pixels - mean**2, 0.0))],
    }


def sample_scatter(points: np.ndarray, labels: np.ndarray | None) -> Image.Image:
    """The first points (n, 1, 1, 2) as a picture, each in the colour of its class."""
    return Image.fromarray(scatter.scatter(points[:DOTS], None if labels is None else labels[:DOTS]))


def sample_grid(images: np.ndarray, labels: np.ndarray | None) -> Image.Image:
    """The first images (n, h, w, c) as a picture: a row a class where there are labels, 20 rows at most."""
    if labels is None:
        rows = [
            np.arange(start, min(start + ACROSS, len(images)))
            for start in range(0, min(len(images), ACROSS**2), ACROSS)
        ]
    else:
        rows = [np.flatnonzero(labels == label)[:ACROSS] for label in np.unique(labels)[:ROWS]]
    _, height, width, channels = images.shape
    times = max(1, CELL // height)
    down, right = height * times + GAP, width * times + GAP
    sheet = np.full((len(rows) * down + GAP, ACROSS * right + GAP, channels), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, index in enumerate(row):
            cell = images[index].repeat(times, axis=0).repeat(times, axis=1)
            sheet[GAP + y * down : (y + 1) * down, GAP + x * right : (x + 1) * right] = cell
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
