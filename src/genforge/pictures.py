"""Pictures for people: many small images as one grid, enlarged by whole numbers, saved as PNG; points as dots.

Pixels are never interpolated: what a person sees is what a network drew.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from genforge import scatter
from genforge.files import replacing

POINTS_TO_SEE = 2000  # in one panel: fewer are no shape, more are a blot
CLASS_COLUMNS, CLASS_ROWS = 8, 20  # of a picture with a row a class: images of each, and classes at most
SIDE_TO_SEE = 48  # pixels: an image with a shorter side than this is hard to judge by eye


def enough(stored: str, images: int) -> int:
    """How many to draw for a picture that has room for so many images: as many, or enough points.

    Args:
        stored: type of the data on disk, `uint8` or (points) `float32`.
    """
    return images if stored == "uint8" else POINTS_TO_SEE


def sheet(
    drawn: np.ndarray, columns: int = 0, real: np.ndarray | None = None, labels: np.ndarray | None = None
) -> np.ndarray:
    """What a model drew as one picture: images as a `grid`, points as a panel of dots, beside one of real ones.

    Args:
        drawn: images uint8 (n, height, width, channels), or points float32 (n, 1, 1, 2).
        columns: of the grid. real: points to show beside, of which images have no need. labels: (n,), of which images
            are shown in rows of one class each.
    """
    if drawn.dtype == np.uint8:
        return grid(drawn, columns) if labels is None else a_row_a_class(drawn, labels)
    if real is None:
        return scatter.scatter(drawn[:POINTS_TO_SEE])
    sides = (real[:POINTS_TO_SEE], drawn[:POINTS_TO_SEE])
    return scatter.row([scatter.scatter(side) for side in sides], ["real", "generated"])


def a_row_a_class(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A `grid` in which every row is of one class, in the order of the labels: the first images of each.

    Args:
        images: uint8 (n, height, width, channels). labels: (n,). Where a class has fewer images than a row has places,
            the rest of its row is black.
    """
    rows = []
    for label in np.unique(labels)[:CLASS_ROWS]:
        row = images[np.flatnonzero(labels == label)[:CLASS_COLUMNS]]
        rows += [row, np.zeros((CLASS_COLUMNS - len(row), *images.shape[1:]), np.uint8)]
    return grid(np.concatenate(rows), CLASS_COLUMNS)


def film(looks: Iterable[tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """What was drawn at several steps of a training, or with several settings: images in rows, points a panel each with
    its title."""
    titles, drawn = zip(*looks, strict=True)
    if drawn[0].dtype == np.uint8:
        return grid(np.concatenate(drawn), columns)
    return scatter.row([scatter.scatter(points) for points in drawn], list(titles))


def grid(images: np.ndarray, columns: int = 0, gap: int = 1, enlarged: bool = True) -> np.ndarray:
    """Images in rows, from left to right and from top to bottom.

    Args:
        images: uint8 (n, height, width, channels), 1 or 3 channels.
        columns: images a row; 0 makes the grid as square as it can be.
        gap: black pixels between neighbours, before enlarging.
        enlarged: bring small images to a size that people can see, see `enlarge`.

    Returns:
        uint8 (height, width, channels); places without an image are black.
    """
    _check(images, dimensions=4)
    count, height, width, channels = images.shape
    columns = columns_of(count, columns)
    rows = math.ceil(count / columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return enlarge(canvas, factor_to_see(height, width)) if enlarged else canvas


def strip(ways: np.ndarray) -> np.ndarray:
    """How images come to be: for each of them a row of what was there and below it a row of what was expected.

    Args:
        ways: uint8 (images, 2, moments, height, width, channels), as `Model.trajectory` gives them.
    """
    return grid(ways.reshape(-1, *ways.shape[3:]), columns=ways.shape[2])


def columns_of(count: int, columns: int = 0) -> int:
    """How many columns `grid` makes of so many images."""
    return min(columns, count) or math.ceil(math.sqrt(count))


def tiles(picture: np.ndarray, count: int, columns: int, gap: int = 1) -> list[np.ndarray]:
    """The images of a picture that `grid` made without enlarging; the picture itself where it cannot be one."""
    if not 1 <= count <= picture.shape[0] * picture.shape[1]:
        return [picture]
    rows = -(-count // max(1, columns))
    height, width = ((side + gap) // max(1, parts) for side, parts in zip(picture.shape, (rows, columns), strict=False))
    if min(height, width) <= gap:
        return [picture]
    corners = [(place // columns * height, place % columns * width) for place in range(count)]
    return [picture[top : top + height - gap, left : left + width - gap] for top, left in corners]


def factor_to_see(height: int, width: int, side: int = SIDE_TO_SEE) -> int:
    """The smallest whole factor that brings the shorter side to `side` pixels at least."""
    return max(1, math.ceil(side / min(height, width)))


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel of `image`, uint8 (height, width, channels), as a square of `factor` by `factor` pixels."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write `image`, uint8 (height, width, channels) with 1 or 3 channels, as PNG; the file is whole or absent."""
    with replacing(path) as file:
        file.write(png_bytes(image))


def png_bytes(image: np.ndarray) -> bytes:
    """`image`, uint8 (height, width, channels) with 1 or 3 channels, as the bytes of a PNG file.

    Not at zlib's highest level, which makes a grid of samples a twentieth smaller and takes fifteen times as long: a
    training draws dozens.
    """
    buffer = io.BytesIO()
    as_picture(image).save(buffer, format="PNG")
    return buffer.getvalue()


def as_picture(image: np.ndarray) -> Image.Image:
    """`image`, uint8 (height, width, channels) with 1 or 3 channels, for Pillow."""
    _check(image, dimensions=3)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _check(images: np.ndarray, dimensions: int) -> None:
    if images.dtype != np.uint8 or images.ndim != dimensions or images.shape[-1] not in (1, 3) or not images.size:
        axes = "(n, height, width, channels)" if dimensions == 4 else "(height, width, channels)"
        raise ValueError(f"a picture is made of uint8 {axes} with 1 or 3 channels, not {images.dtype} {images.shape}")
