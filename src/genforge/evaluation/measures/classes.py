"""How many classes the generated images reach."""

from __future__ import annotations

import numpy as np

from genforge.evaluation.metric import Evidence, Metric


def classes_reached(evidence: Evidence) -> float:
    """Number of classes that are the likeliest of some image."""
    assert evidence.logits is not None
    return float(len(np.unique(evidence.logits.argmax(axis=1))))


CLASSES = Metric(
    name="classes",
    title="Classes",
    better="higher",
    meaning="number of classes that the extractor finds among the images",
    compute=classes_reached,
    needs="classes",
    decimals=1,
)
