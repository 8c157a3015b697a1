"""Drawn biscuit tins: RGB images whose height and width are known, for looking at what a latent space has learnt.

A tin stands on a shelf, seen from a little above: an elliptic lid with a rim, a body shaded as a cylinder is, and a
label band around it. Its height and its width are the factors of interest. Colours of tin, band and background, the
place of the tin and the side that the light comes from are nuisance. All factors are saved beside the images.
"""

from __future__ import annotations

import numpy as np

FACTORS = ("height", "width", "hue", "band_hue", "background", "left", "light")
DEFAULT_SIDE = 32  # pixels
BELOW = 0.10  # of the image lies under the tin's foot
LID = 0.22  # height of the lid's ellipse as a share of its width: how far from above we look


OF_INTEREST = 2  # of FACTORS, the first ones


def draw_factors(count: int, seed: int, nuisance: float = 1.0) -> np.ndarray:
    """Factors of `count` tins, float32 (count, 7), in the order of FACTORS, uniform and independent.

    nuisance: how much of their range the factors after height and width take, around its middle; 0: none of it.

    height 0.25..0.70 (of the body, without its lid) and width 0.25..0.70 of the image's side; hue, band_hue 0..1 round
    the colour wheel; background 0.55..0.95 brightness; left -0.08..0.08 of the side from the middle; light -1 (from the
    left) to 1 (from the right).
    """
    low = np.array([0.25, 0.25, 0.0, 0.0, 0.55, -0.08, -1.0])
    high = np.array([0.70, 0.70, 1.0, 1.0, 0.95, 0.08, 1.0])
    unit = np.random.Generator(np.random.Philox(seed)).random((count, len(FACTORS)))
    if nuisance != 1.0:
        unit[:, OF_INTEREST:] = 0.5 + nuisance * (unit[:, OF_INTEREST:] - 0.5)
    return (low + unit * (high - low)).astype(np.float32)


def draw(factors: np.ndarray, side: int) -> np.ndarray:
    """Tins of the given factors (n, 7), uint8 (n, side, side, 3). Edges are smooth over one pixel."""
    height, width, hue, band_hue, background, left, light = (column[:, None, None] for column in factors.T)
    grid = (np.arange(side, dtype=np.float32) + 0.5) / side
    x = grid[None, None, :] - 0.5 - left  # (n, 1, side), from the tin's axis, to the right
    y = 1.0 - BELOW - grid[None, :, None]  # (1, side, 1), from the foot's front edge, upwards

    half = width / 2
    bow = half * LID  # half the height of the ellipse that a circle of the tin's width is seen as
    across = np.clip(x / half, -1.0, 1.0)
    sag = bow * (1.0 - np.sqrt(1.0 - across**2))  # how much higher than its front a rim lies at x

    def inside(distance: np.ndarray) -> np.ndarray:
        """Coverage in 0..1 of a pixel at a distance (in sides) inside an edge."""
        return np.clip(distance * side + 0.5, 0.0, 1.0)

    def ellipse(scale: float) -> np.ndarray:
        """Coverage of the lid's ellipse at a scale; its distance is measured along y, where the ellipse is flat."""
        reach = np.sqrt(np.clip(scale**2 - (x / half) ** 2, 0.0, None)) * bow
        return inside(reach - np.abs(y - height - bow)) * inside(scale * half - np.abs(x))

    between = inside(half - np.abs(x))
    body = between * inside(y - sag) * inside(height + bow - y)
    band = between * inside(y - sag - 0.25 * height) * inside(0.70 * height + sag - y)
    shade = 0.62 + 0.38 * np.sqrt(np.clip(1.0 - (0.55 * light - across) ** 2 / 2.6, 0.0, 1.0))

    wall = background * np.array([1.0, 0.98, 0.94], dtype=np.float32)[:, None, None, None]  # (3, n, 1, 1)
    picture = wall * np.where(y > 0.04, 1.0, 0.78)  # the shelf is darker than the wall
    for colour, coverage in (
        (_colour(hue, 0.65, 0.85) * shade, body),
        (_colour(band_hue, 0.35, 0.98) * shade, band),
        (_colour(hue, 0.60, 0.65), ellipse(1.0)),
        (_colour(hue, 0.45, 0.97), ellipse(0.86)),
    ):
        picture = picture + (colour - picture) * coverage
    return np.round(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8).transpose(1, 2, 3, 0)


def _colour(hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """HSV to RGB in 0..1, (3, n, 1, 1)."""
    shift = np.array([5.0, 3.0, 1.0], dtype=np.float32)[:, None, None, None]
    k = (shift + 6.0 * hue[None]) % 6.0
    return value * (1.0 - saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))
