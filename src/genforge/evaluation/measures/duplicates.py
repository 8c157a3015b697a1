"""Share of generated images that are there twice, or as good as twice.

Two images count as the same when their features are no further apart than the closest pairs of real images are: the
1% quantile of the distances of real images to their nearest others. Of as many real images about 1% have such a twin,
of fewer less. Where real images themselves are there twice, that distance is 0, and only exact copies count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genforge.evaluation.measures.neighbours import NEAR, neighbourhoods, prepare
from genforge.evaluation.metric import Evidence, Metric

QUANTILE = 0.01


def settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"quantile": QUANTILE}


def duplicate_rate(evidence: Evidence, quantile: float) -> float:
    closest = np.quantile(evidence.prepared[NEAR][:, 0], quantile)
    # Distances by blocks are rounded as products are; of copies they need not be 0. The difference itself is.
    twins = evidence.generated[evidence.shared(neighbourhoods).twin]
    return float((np.linalg.norm(evidence.generated - twins, axis=1) <= closest).mean())


DUPLICATES = Metric(
    name="duplicates",
    title="Duplicates",
    better="lower",
    meaning="share of the generated images with a twin among them: another that is no further away in features than "
    "the closest 1% of real images are from theirs",
    compute=duplicate_rate,
    settings=settings,
    prepare=prepare,
)
