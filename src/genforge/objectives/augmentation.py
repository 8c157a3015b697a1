"""Differentiable augmentation (Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training").

Whatever the critic is shown, real or fake and in either player's turn, is changed at random first, so that it cannot
learn a small data set by heart; the generator learns through the change, and so does not learn to draw it. Every
image's change is its own. All map (n, c, h, w) to the same shape and are differentiable as often as one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 1 / 8  # of the image's side, at most
HOLE = 1 / 2  # of the image's side


def brightness(images: Tensor, change: Tensor) -> Tensor:
    """x + change, with change (n, 1, 1, 1)."""
    return images + change


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Distances from each pixel's own gray times `factor`: 0 is gray, 1 the image. Gray images stay as they are."""
    return torch.lerp(images.mean(dim=1, keepdim=True).expand_as(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Distances from the image's mean times `factor`."""
    return torch.lerp(images.mean(dim=(1, 2, 3), keepdim=True).expand_as(images), images, factor)


def translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image moved by its own whole number of pixels, (n,) int64 each; what comes in is 0, the middle gray."""
    count, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) - down[:, None]  # (n, h): where each row comes from
    columns = torch.arange(width, device=images.device) - right[:, None]  # (n, w)
    # Row and column 0 of the padded image, and its last ones, are the gray that comes in.
    rows, columns = (rows + 1).clamp(0, height + 1), (columns + 1).clamp(0, width + 1)
    padded = functional.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (n, h + 2, w + 2, c)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Each image with a hole of half its height and width, 0 inside, whose corner is at (top, left), (n,) int64 each;
    it may reach beyond the border."""
    _, _, height, width = images.shape
    row = torch.arange(height, device=images.device) - top[:, None]
    column = torch.arange(width, device=images.device) - left[:, None]
    inside_rows = (row >= 0) & (row < round(height * HOLE))  # (n, h)
    inside_columns = (column >= 0) & (column < round(width * HOLE))  # (n, w)
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images.masked_fill(hole, 0.0)


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high).to(images.dtype)


def _whole(images: Tensor, low: int, high: int) -> Tensor:
    """Whole numbers from `low` to `high`, both included: (n,)."""
    return torch.randint(low, high + 1, (len(images),), device=images.device)


def random_colour(images: Tensor) -> Tensor:
    """Brightness by up to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    images = brightness(images, _uniform(images, -0.5, 0.5))
    images = saturation(images, _uniform(images, 0.0, 2.0))
    return contrast(images, _uniform(images, 0.5, 1.5))


def random_translation(images: Tensor) -> Tensor:
    """By up to an eighth of the image's height and width."""
    down, right = (round(side * SHIFT) for side in images.shape[2:])
    return translate(images, _whole(images, -down, down), _whole(images, -right, right))


def random_cutout(images: Tensor) -> Tensor:
    """A hole whose middle is anywhere on the image."""
    height, width = images.shape[2:]
    top = _whole(images, 0, height - 1) - round(height * HOLE) // 2
    left = _whole(images, 0, width - 1) - round(width * HOLE) // 2
    return cut_out(images, top, left)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "colour": random_colour,
    "translation": random_translation,
    "cutout": random_cutout,
}


def augment(images: Tensor, names: Iterable[str]) -> Tensor:
    """The images changed by each named augmentation in turn, at random."""
    for name in names:
        images = AUGMENTATIONS[name](images)
    return images
