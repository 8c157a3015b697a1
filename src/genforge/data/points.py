"""Points of the plane: small data sets whose distribution is known, on which a model's mistakes can be seen.

Every shape lies within [-1, 1] in both coordinates. What has parts of its own (a Gaussian of the ring, a cell of the
checkerboard) labels each point by its part, so that forgotten ones can be counted. All parts are equally likely. The
ring is the one on which generators are known to forget parts (Metz et al. 2017, "Unrolled generative adversarial
networks", section 3.1); the others are those that flows are usually shown on (Grathwohl et al. 2019, "FFJORD", section
5.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RING_RADIUS, RING_MODES = 0.7, 8
DISC_RADIUS = 0.7
CELLS_ACROSS, CELL = 4, 0.4  # of the checkerboard, and the side of one
ARMS = 5


@dataclass(frozen=True)
class Points:
    """points: float32 (n, 2), x and y in [-1, 1]. labels: int64 (n,), 0 to modes - 1. modes: parts; 0: none."""

    points: np.ndarray
    labels: np.ndarray
    modes: int


def draw(shape: str, count: int, noise: float | None, seed: int) -> Points:
    """`count` points of a shape.

    Args:
        shape: a key of `SHAPES`. noise: standard deviation of normal noise on each coordinate, None for the shape's
            own; a point that it would carry out of [-1, 1] is put onto the border. seed: 0..2^63-1.
    """
    kind = SHAPES[shape]
    random = np.random.Generator(np.random.Philox(seed))
    labels = random.integers(max(1, kind.modes), size=count)
    exact = kind.draw(random, labels)
    noisy = exact + (kind.noise if noise is None else noise) * random.standard_normal(exact.shape)
    return Points(noisy.clip(-1.0, 1.0).astype(np.float32), labels, kind.modes)


def _disc(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Uniform on a disc."""
    radius = DISC_RADIUS * np.sqrt(random.random(len(labels)))
    return _on_circle(2 * np.pi * random.random(len(labels)), radius)


def _ring(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """The centres of Gaussians on a circle, by number against the clock from the right; the noise makes them such."""
    return _on_circle(2 * np.pi * labels / RING_MODES, np.full(len(labels), RING_RADIUS))


def _moons(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Two half circles, each reaching into the other."""
    angle = np.pi * random.random(len(labels))
    upper = _on_circle(angle, np.ones(len(labels)))
    lower = np.array([1.0, 0.5]) - upper
    return 0.55 * (np.where(labels[:, None] == 0, upper, lower) - np.array([0.5, 0.25]))


def _checkerboard(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Uniform on the eight dark cells of a board of four by four."""
    row, place = labels // 2, labels % 2
    corner = np.stack([2 * place + row % 2, row], axis=1)
    return CELL * (corner + random.random((len(labels), 2)) - CELLS_ACROSS / 2)


def _pinwheel(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Long Gaussians, one an arm, bent the more the further out (Johnson et al. 2016, "Composing graphical models with
    neural networks", figure 1)."""
    along = 1.0 + 0.3 * random.standard_normal(len(labels))
    across = 0.1 * random.standard_normal(len(labels))
    angle = 2 * np.pi * labels / ARMS + 0.25 * np.exp(along)
    cosine, sine = np.cos(angle), np.sin(angle)
    return 0.42 * np.stack([along * cosine - across * sine, along * sine + across * cosine], axis=1)


def _on_circle(angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@dataclass(frozen=True)
class Shape:
    """modes: how many parts it labels, 0 for none. noise: its own standard deviation. draw: points (n, 2) without
    noise, from a generator and labels (n,)."""

    modes: int
    noise: float
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]


SHAPES: dict[str, Shape] = {
    "disc": Shape(0, 0.03, _disc),
    "ring": Shape(RING_MODES, 0.04, _ring),
    "moons": Shape(2, 0.03, _moons),
    "checkerboard": Shape(CELLS_ACROSS**2 // 2, 0.0, _checkerboard),
    "pinwheel": Shape(ARMS, 0.0, _pinwheel),
}
