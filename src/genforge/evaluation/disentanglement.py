"""Whether each dimension of a latent space means one thing: codes beside the factors that images were drawn from.

Rank correlation (Spearman) of each dimension with each factor says what a dimension follows, up to a bend of its scale.
The mutual information gap (Chen et al. 2018, "Isolating sources of disentanglement in variational autoencoders", eq. 6)
is one number: of each factor, how much more the dimension that knows most of it knows than the next, as a share of all
that there is to know. 1: every factor has a dimension of its own; 0: each is shared.

Information is counted over bins that hold equally many images. The same small excess that counting gives unrelated
numbers stands in both terms of a gap, and cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BINS = 10


@dataclass(frozen=True)
class Disentanglement:
    """factors: names of those that vary. rank_correlation: [dimension][factor], -1 to 1. information: [dimension]
    [factor], nats. gaps: of each factor; mig: their mean. images: how many were looked at."""

    factors: tuple[str, ...]
    rank_correlation: tuple[tuple[float, ...], ...]
    information: tuple[tuple[float, ...], ...]
    gaps: tuple[float, ...]
    mig: float
    images: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        """The dimension that follows each factor most, and the gap."""
        told = []
        for column, factor in enumerate(self.factors):
            values = [row[column] for row in self.rank_correlation]
            dimension = int(np.argmax(np.abs(values)))
            told.append(f"{factor} by dimension {dimension} ({values[dimension]:+.2f})")
        return f"{', '.join(told)}; mutual information gap {self.mig:.2f}"


def disentanglement(codes: np.ndarray, factors: np.ndarray, names: Sequence[str]) -> Disentanglement | None:
    """What codes (n, d) know of factors (n, k). None where no factor varies.

    Raises:
        ValueError: there are fewer than 100 images: too few to count over bins.
    """
    if len(codes) < BINS**2:
        raise ValueError(f"information is counted over {BINS} x {BINS} bins, for which {len(codes)} images are too few")
    varying = [column for column in range(factors.shape[1]) if np.ptp(factors[:, column]) > 0]
    if not varying:
        return None
    ranks, factor_ranks = _ranks(codes), _ranks(factors[:, varying])
    correlation = _standard(ranks).T @ _standard(factor_ranks) / len(codes)  # (d, k)
    information = np.array([[_information(one, other) for other in factor_ranks.T] for one in ranks.T])
    gaps = []
    for column, ranked in zip(information.T, factor_ranks.T, strict=True):
        best = np.sort(column)[::-1]
        entropy = _information(ranked, ranked)
        gaps.append(float((best[0] - (best[1] if len(best) > 1 else 0.0)) / entropy))
    return Disentanglement(
        tuple(names[column] for column in varying),
        tuple(tuple(map(float, row)) for row in correlation),
        tuple(tuple(map(float, row)) for row in information),
        tuple(gaps),
        float(np.mean(gaps)),
        len(codes),
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 0 to n - 1 of each column; of equal values the mean of theirs."""
    ranks = np.empty(values.shape, np.float64)
    for column in range(values.shape[1]):
        _, place, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks[:, column] = (ends - (counts + 1) / 2)[place]
    return ranks


def _standard(ranks: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and deviation 1; of a column that does not vary, zeros."""
    deviation = ranks.std(axis=0)
    return (ranks - ranks.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)


def _information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information of two columns of ranks, counted over bins of equally many images, in nats."""
    bins = [np.minimum((ranks * BINS / len(ranks)).astype(int), BINS - 1) for ranks in (first, second)]
    joint = np.zeros((BINS, BINS))
    np.add.at(joint, tuple(bins), 1 / len(first))
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())
