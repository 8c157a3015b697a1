"""Kernel inception distance (Binkowski et al. 2018), with the draws and the arithmetic of torch-fidelity, whose numbers
these are. Its package is not imported: that takes two seconds, in every process that judges.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genforge.evaluation.metric import Evidence, Metric
from genforge.evaluation.threads import side_by_side

SUBSETS, SUBSET_SIZE = 100, 1000


def settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"subsets": SUBSETS, "subset_size": min(SUBSET_SIZE, images, reference_images)}


def kid(evidence: Evidence, subsets: int, subset_size: int) -> float:
    """Mean over `subsets` random subsets of `subset_size` images each."""
    random, sides = np.random.RandomState(evidence.seed), (evidence.generated, evidence.reference)
    drawn = [[random.choice(len(side), subset_size, replace=False) for side in sides] for _ in range(subsets)]

    def of(subset: list[np.ndarray]) -> float:
        return discrepancy(*(side[places] for side, places in zip(sides, subset, strict=True)))

    with side_by_side() as mapped:
        return float(np.mean(list(mapped(of, drawn))))


def discrepancy(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy (Binkowski et al. 2018, equation 4) between two
    sets of as many features, (n, dimensions) both."""
    count = len(first)
    own, other, across = kernel(first, first), kernel(second, second), kernel(first, second)
    pairs = sum((each.sum(axis=1) - each.diagonal()).sum() for each in (own, other))  # an image is no pair with itself
    return float(pairs / (count * (count - 1)) - 2 * across.sum(axis=0).sum() / count**2)


def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """k(x, y) = (x.y / dimensions + 1)^3, (n, m) of (n, dimensions) and (m, dimensions)."""
    found = first @ second.T
    found *= 1.0 / first.shape[1]  # in place: to fetch new memory for each step takes longer than the arithmetic
    found += 1.0
    found **= 3
    return found


KID = Metric(
    name="kid",
    title="KID",
    better="lower",
    meaning="squared maximum mean discrepancy of the features under a cubic kernel; without bias, so a little "
    "below 0 is possible (Binkowski et al. 2018)",
    compute=kid,
    settings=settings,
    decimals=4,
    main=True,
)
