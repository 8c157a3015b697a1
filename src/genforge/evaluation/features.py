"""What the judge's eyes have seen: arrays, which statistics and gates go by and which need no eyes any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Features:
    """What an extractor sees in n images: features float32 (n, dimensions); logits float32 (n, classes), or None."""

    features: np.ndarray
    logits: np.ndarray | None

    def are_told(self, classes: int) -> bool:
        """Whether so many classes are told apart: the data's own, for published extractors know others or none."""
        return self.logits is not None and self.logits.shape[1] == classes
