"""What the judge's eyes have seen: arrays, which statistics and gates go by and which need no eyes any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Features:
    """What an extractor sees in n images: features float32 (n, dimensions); logits float32 (n, classes), or None."""

    features: np.ndarray
    logits: np.ndarray | None
