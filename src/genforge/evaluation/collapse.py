"""Whether a model has collapsed: its images are a few images, of a few classes, or variations of one, over and over.

Told from what the judge can count, so that a model that is merely bad is not called collapsed:

- images with a twin among them (`measures/duplicates.py`): of real ones hardly any has one;
- classes of the data that any image reaches: as many images as are judged reach every class of real ones;
- how far apart two images are on average, in features (`measures/diversity.py`) and in pixels, as shares of what two
  real ones are. Variations of one shape are no twins, and a classifier may see several classes in them; but they are
  near to each other in both. One alone says little: noise is one thing to a classifier and far apart in pixels, and
  pale images are near to each other in pixels and of every shape. So the larger of both shares counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TOGETHER = 1000  # images that are summed at once


@dataclass(frozen=True)
class Variety:
    """Means over sampling seeds of how varied a model's images are.

    duplicates: share of images with a twin.
    features, pixels: mean squared distance of two images, divided by that of two of the data's: in features of length
        one, and in pixels.
    classes, of_classes: how many classes are reached, and how many the data have; None where the judge names no classes
        of the data.
    """

    duplicates: float
    features: float
    pixels: float
    classes: float | None = None
    of_classes: int | None = None

    @classmethod
    def of(cls, found: Sequence[Mapping[str, float]], of_classes: int | None) -> Variety:
        """Means over seeds of `duplicates`, `features`, `pixels`, and of `classes` where the data have them."""
        names = ["duplicates", "features", "pixels", *(["classes"] if of_classes is not None else [])]
        return cls(**{name: sum(one[name] for one in found) / len(found) for name in names}, of_classes=of_classes)

    @property
    def mode_coverage(self) -> float | None:
        """Share of the data's classes that are reached."""
        return None if self.classes is None or not self.of_classes else self.classes / self.of_classes

    def collapse(self, duplicates: float, classes: float, spread: float) -> str:
        """What the collapse consists in, in words; empty for none.

        Args:
            duplicates: share of images with a twin from which on it is one. classes: share of classes up to which it is
                one; a single class of several is always one. spread: share of the data's distances, in features and in
                pixels, up to which it is one.
        """
        found = []
        if self.duplicates >= duplicates:
            found.append(f"{self.duplicates:.0%} of its images are there twice")
        reached, there = self.classes, self.of_classes or 0
        if reached is not None and there > 1 and reached <= max(1.0, classes * there):
            found.append(f"it reaches {reached:.3g} of {there} classes")
        if max(self.features, self.pixels) <= spread:
            found.append(
                f"its images are variations of one (two of them differ by {self.features:.0%} of what two of the "
                f"data's do in features, and by {self.pixels:.0%} in pixels)"
            )
        return " and ".join(found)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mode_coverage": self.mode_coverage}


def pixel_diversity(images: np.ndarray) -> float:
    """Mean squared distance of two images, (n, height, width, channels) of any type, over all pairs; n is 2 or more.

    Over pairs, the sum of |a - b|^2 is n times the sum of |a|^2 less the square of the sum.
    """
    count, rows = len(images), images.reshape(len(images), -1)
    total, squares = np.zeros(rows.shape[1]), 0.0
    for first in range(0, count, TOGETHER):
        part = rows[first : first + TOGETHER].astype(np.float64)
        total += part.sum(axis=0)
        squares += float((part**2).sum())
    return 2.0 * (count * squares - float(total @ total)) / (count * (count - 1))
