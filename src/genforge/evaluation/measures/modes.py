"""Share of the data's modes that the generated points reach: a mode counts when at least one point is nearest to it and
within three of its standard deviations, as in Srivastava et al. 2017, "VEEGAN", section 4.1."""

from __future__ import annotations

from typing import Any

import numpy as np

from genforge.evaluation.metric import Evidence, Metric

WITHIN = 3.0


def settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"within": WITHIN}


def modes_reached(evidence: Evidence, within: float) -> float:
    """`within`: standard deviations of the mode. Logits are -d^2 / 2 (`evaluation/coordinates.py`)."""
    assert evidence.logits is not None
    nearest = evidence.logits.argmax(axis=1)
    close = evidence.logits.max(axis=1) >= -(within**2) / 2
    return len(np.unique(nearest[close])) / evidence.logits.shape[1]


MODES = Metric(
    name="modes",
    title="Modes",
    better="higher",
    meaning="share of the data's modes with a generated point within three of their standard deviations",
    compute=modes_reached,
    settings=settings,
    needs="modes",
    decimals=2,
    main=True,
)
