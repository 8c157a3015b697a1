"""How unlike each other generated images are: LPIPS diversity, with the features of the extractor in LPIPS' place."""

from __future__ import annotations

import numpy as np

from genforge.evaluation.metric import Evidence, Metric


def unit(features: np.ndarray) -> np.ndarray:
    """Rows brought to length 1, float64; a row of zeros stays."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-10)


def diversity(features: np.ndarray) -> float:
    """Mean over all pairs of the squared distance of features (n, dimensions), each brought to length 1 as LPIPS does:
    0 to 4."""
    rows = unit(features)
    count, total = len(rows), rows.sum(axis=0)
    # Over pairs, the sum of |a - b|^2 is n times the sum of |a|^2 less the square of the sum.
    return float(2.0 * (count * (rows**2).sum() - total @ total) / (count * (count - 1)))


def feature_diversity(evidence: Evidence) -> float:
    return diversity(evidence.generated)


FEATURE_DIVERSITY = Metric(
    name="feature_diversity",
    title="Feature diversity",
    better="higher",
    meaning="mean squared distance of two generated images in features of length 1, as LPIPS diversity is of LPIPS' "
    "own; more than real images have is noise, not merit",
    compute=feature_diversity,
)
