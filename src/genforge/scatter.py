"""Pictures of points of the plane and of functions on it, drawn by NumPy: the square from -1.25 to 1.25 both ways, y
upwards, with a line where x and y are -1 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

REACH = 1.25  # of the plane that is shown, in each direction from the middle
SIDE = 320  # pixels of a panel
GAP = 8  # pixels between panels
TITLE = 16  # pixels above a panel that has a title
FINE = 2  # pixels are drawn this many times finer both ways, and averaged
DOT = 3.0  # pixels across
INK = 0.6  # share of the light that a dot takes
BLUE = (31, 88, 166)
COLOURS = (
    BLUE,
    (214, 96, 31),
    (46, 139, 87),
    (178, 58, 133),
    (122, 98, 20),
    (20, 140, 160),
    (170, 40, 40),
    (90, 90, 90),
)
# From the least to the greatest value of a heat map: dark to light, so that it reads in gray too.
HEAT = np.array([(13, 8, 60), (84, 15, 109), (156, 41, 99), (221, 81, 58), (248, 148, 32), (252, 228, 140)], float)


def scatter(points: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """A panel with a dot for each point.

    Args:
        points: float (n, 2) or (n, 1, 1, 2). labels: int (n,), for the colour of each; None: all the same.

    Returns:
        uint8 (SIDE, SIDE, 3).
    """
    points = points.reshape(-1, 2)
    light = np.ones((SIDE, SIDE, 3))
    for label in (0,) if labels is None else np.unique(labels):
        chosen = points if labels is None else points[labels == label]
        colour = np.array(COLOURS[int(label) % len(COLOURS)]) / 255
        light *= 1.0 - (1.0 - (1.0 - INK) ** _dots(chosen)[..., None]) * (1.0 - colour)
    return _framed(np.round(255 * light).astype(np.uint8))


def heat(values: np.ndarray) -> np.ndarray:
    """A panel with a colour for each value of a function on the plane.

    Args:
        values: (side, side) at `places(side)`, from the least (dark) to the greatest (light).

    Returns:
        uint8 (SIDE, SIDE, 3).

    Raises:
        ValueError: some value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("values hold some that are not finite (NaN or infinity)")
    low, high = float(values.min()), float(values.max())
    place = (values - low) / max(high - low, 1e-30) * (len(HEAT) - 1)
    below = np.minimum(place.astype(int), len(HEAT) - 2)
    colours = HEAT[below] + (HEAT[below + 1] - HEAT[below]) * (place - below)[..., None]
    image = Image.fromarray(np.round(colours).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return _framed(np.asarray(image).copy())


def places(side: int) -> np.ndarray:
    """The middles of side * side equal cells of what is shown: float32 (side * side, 2), from the top left in rows, so
    that values there, as (side, side), are a picture the right way up."""
    middle = ((np.arange(side) + 0.5) / side * 2 - 1) * REACH
    x, y = np.meshgrid(middle, -middle)
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def row(panels: Sequence[np.ndarray], titles: Sequence[str] | None = None) -> np.ndarray:
    """Panels side by side, each under its title: uint8 (height, width, 3)."""
    top = TITLE if titles else 0
    sheet = np.full((top + SIDE, len(panels) * (SIDE + GAP) - GAP, 3), 255, np.uint8)
    for number, panel in enumerate(panels):
        left = number * (SIDE + GAP)
        sheet[top:, left : left + SIDE] = panel
        if titles:
            label = Image.new("L", (SIDE, TITLE), 255)
            ImageDraw.Draw(label).text((2, 2), titles[number], fill=40)
            sheet[:top, left : left + SIDE] = np.asarray(label)[..., None]
    return sheet


def _dots(points: np.ndarray) -> np.ndarray:
    """How many dots lie over each pixel, (SIDE, SIDE), whole dots and parts of them."""
    side, radius = SIDE * FINE, DOT * FINE / 2
    across = np.floor((points[:, 0] / REACH + 1) / 2 * side).astype(np.int64)
    down = np.floor((1 - points[:, 1] / REACH) / 2 * side).astype(np.int64)
    counts = np.zeros((side, side))
    reach = int(radius)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dx * dx + dy * dy <= radius * radius:
                y, x = down + dy, across + dx
                inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
                counts += np.bincount(y[inside] * side + x[inside], minlength=side * side).reshape(side, side)
    return counts.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))


def _framed(panel: np.ndarray) -> np.ndarray:
    """The panel with the square of -1 to 1 in gray, and a border."""
    low, high = (round((1 + sign / REACH) / 2 * (SIDE - 1)) for sign in (-1, 1))
    gray = np.array([160, 160, 160])
    for edge in (low, high):
        for line in (panel[edge, low : high + 1], panel[low : high + 1, edge]):
            line[:] = (line + gray) // 2
    panel[[0, -1]] = panel[:, [0, -1]] = 120
    return panel
