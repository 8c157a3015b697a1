"""The data as `prepare` left it, to be read; without torch, so that whoever only asks about it starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genforge.files import read_array, read_json
from genforge.shapes import ImageShape


@dataclass(frozen=True)
class Prepared:
    """The folder that `prepare` filled. `classes` is empty where there are no labels; `digest` is of the contents."""

    folder: Path
    shape: ImageShape
    classes: tuple[str, ...]
    digest: str
    card: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Raises UserError when `prepare` has not been run."""
        card = read_json(folder / "card.json")
        return cls(folder, ImageShape(**card["shape"]), tuple(card["classes"]), card["digest"], card)

    def count(self, split: str) -> int:
        """Number of images in `train`, `validation` or `test`."""
        return self.card["splits"][split]

    def images(self, split: str) -> np.ndarray:
        """uint8 (n, height, width, channels), or points float32 (n, 1, 1, 2); memory-mapped, read only."""
        return read_array(self.folder / f"{split}-images.npy", memory_map=self.count(split) > 0)

    def labels(self, split: str) -> np.ndarray | None:
        """int64 (n,), numbers of `classes`; None where there are no labels."""
        return read_array(self.folder / f"{split}-labels.npy") if self.classes else None

    def factors(self, split: str) -> np.ndarray | None:
        """float32 (n, k) of drawn images, columns as `card["factors"]` names them; None for others."""
        return read_array(self.folder / f"{split}-factors.npy") if self.card["factors"] else None
