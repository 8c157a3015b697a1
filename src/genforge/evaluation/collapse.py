"""Whether a model has collapsed: its images are a few images, or of a few classes, over and over.

Told from two shares that the judge can count, so that a model that is merely bad is not called collapsed: images with a
twin among them (`measures/duplicates.py`), and classes of the data that any image reaches. Of real images hardly any
has a twin, and as many images as are judged reach every class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Variety:
    """duplicates: share of images with a twin. classes, of_classes: how many classes are reached, and how many the data
    have; means over sampling seeds. None where the judge names no classes of the data."""

    duplicates: float
    classes: float | None = None
    of_classes: int | None = None

    @classmethod
    def of(cls, found: Sequence[Mapping[str, float]], of_classes: int | None) -> Variety:
        """Means over seeds of what the metrics `duplicates` and `classes` gave."""
        duplicates = sum(one["duplicates"] for one in found) / len(found)
        if of_classes is None:
            return cls(duplicates)
        return cls(duplicates, sum(one["classes"] for one in found) / len(found), of_classes)

    @property
    def mode_coverage(self) -> float | None:
        """Share of the data's classes that are reached."""
        return None if self.classes is None or not self.of_classes else self.classes / self.of_classes

    def collapse(self, duplicates: float, classes: float) -> str:
        """What the collapse consists in, in words; empty for none.

        Args:
            duplicates: share of images with a twin from which on it is one. classes: share of classes up to which it is
                one; a single class of several is always one.
        """
        found = []
        if self.duplicates >= duplicates:
            found.append(f"{self.duplicates:.0%} of its images are there twice")
        reached, there = self.classes, self.of_classes or 0
        if reached is not None and there > 1 and reached <= max(1.0, classes * there):
            found.append(f"it reaches {reached:.3g} of {there} classes")
        return " and ".join(found)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mode_coverage": self.mode_coverage}
