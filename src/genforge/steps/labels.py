"""Which label each drawn image of a conditional model gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genforge.models import in_proportion
from genforge.pictures import CLASS_COLUMNS, CLASS_ROWS

if TYPE_CHECKING:
    from torch import Tensor

    from genforge.data.loading import Prepared


def labels_of(classes: int, prepared: Prepared, images: int) -> Tensor | None:
    """Labels, (images,) int64, for a network conditioned on `classes` labels; None for one that takes none."""
    import torch

    counts = label_counts(classes, prepared)
    return torch.from_numpy(in_proportion(np.array(counts), images)) if counts else None


def labels_to_see(classes: int) -> Tensor | None:
    """Labels, int64, of as many images of each of `classes` classes as a picture with a row a class holds; None for a
    network that takes none."""
    import torch

    return torch.arange(min(classes, CLASS_ROWS)).repeat_interleave(CLASS_COLUMNS) if classes else None


def label_counts(classes: int, prepared: Prepared) -> list[int]:
    """How often each of the `classes` labels is in the training split; empty for a network that takes none."""
    real = prepared.labels("train")
    return [] if not classes or real is None else np.bincount(real, minlength=classes).tolist()
