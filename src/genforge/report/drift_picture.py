"""The picture of a decision about drift: how far apart the images are, among what chance alone does; and the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genforge.evaluation.drift import Drift
from genforge.pictures import grid
from genforge.report.figures import LIGHT, Theme, _axes, _figure, _save

SHOWN, COLUMNS = 64, 8  # images of a side


def draw(path: Path, drift: Drift, known: np.ndarray, new: np.ndarray, theme: Theme = LIGHT) -> None:
    """Write the picture.

    Args:
        known, new: images uint8 (n, height, width, channels); the first of each are shown.
    """
    figure = _figure(theme, width=7.2, height=3.0)
    axes = _axes(figure, theme, 1, 3, 0)
    axes.hist(drift.null, bins=30, color=theme.muted, alpha=0.45, linewidth=0)
    found = theme.colour(1) if drift.has_drifted else theme.colour(0)
    axes.axvline(drift.kid, color=found, linewidth=2.0)
    limit = float(np.quantile(drift.null, 1.0 - drift.level))
    axes.axvline(limit, color=theme.ink, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_title(f"{'drift' if drift.has_drifted else 'no drift'}, p = {drift.p_value:.3g}", fontsize=8.5,
                   color=found, loc="left", pad=5)  # fmt: skip
    axes.set_xlabel(f"KID: measured, {len(drift.null)} shuffles\n(dashed: level {drift.level:g})")
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)
    axes.spines["left"].set_visible(False)
    for place, (images, name) in enumerate(((known, "known"), (new, "new")), start=1):
        picture = figure.add_subplot(1, 3, place + 1)
        shown = grid(images[:SHOWN], COLUMNS, enlarged=False)
        picture.imshow(shown if shown.shape[2] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=255)
        picture.set_title(f"{name} images", fontsize=8.5, color=theme.ink, loc="left", pad=5)
        picture.set_axis_off()
    _save(figure, path, theme)
