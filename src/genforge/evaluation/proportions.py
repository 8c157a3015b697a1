"""How often something happens, from how often it was seen: exact intervals of a proportion.

Assumed: n independent draws, each with the same probability p. Nothing is approximated: Clopper and Pearson 1934, "The
use of confidence or fiducial limits illustrated in the case of the binomial", inverts the binomial distribution itself,
so a bound holds with at least its confidence at every n and p.
"""

from __future__ import annotations

import math

import numpy as np


def upper_bound(seen: int, count: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of p: the p at which `seen` or fewer of `count` would come with probability 1 -
    confidence. It is the `confidence` quantile of Beta(seen + 1, count - seen); with none seen, 1 - (1 -
    confidence)^(1 / count)."""
    from scipy.special import betaincinv  # `scipy.stats` takes half a second to import

    _check(seen, count)
    return 1.0 if seen == count else float(betaincinv(seen + 1, count - seen, confidence))


def lower_bound(seen: int, count: int, confidence: float = 0.95) -> float:
    """The one-sided lower bound: the 1 - confidence quantile of Beta(seen, count - seen + 1)."""
    from scipy.special import betaincinv

    _check(seen, count)
    return 0.0 if seen == 0 else float(betaincinv(seen, count - seen + 1, 1.0 - confidence))


def interval(seen: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Both bounds at once, each with half of what is left over."""
    each = 0.5 + confidence / 2
    return lower_bound(seen, count, each), upper_bound(seen, count, each)


def draws_needed(limit: float, confidence: float = 0.95) -> int:
    """The fewest draws with which an upper bound can be as low as `limit`: log(1 - confidence) / log(1 - limit), with
    none seen."""
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-limit))


def shares(counts: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Intervals of the shares of k classes, (k, 2), which all hold together with at least `confidence`: Clopper and
    Pearson for each class at 1 - (1 - confidence) / k (Bonferroni)."""
    count, each = int(counts.sum()), 1.0 - (1.0 - confidence) / len(counts)
    return np.array([interval(int(seen), count, each) for seen in counts])


def same_shares(counts: np.ndarray, expected: np.ndarray) -> float:
    """p-value of Pearson's chi-square test that `counts` were drawn with the shares `expected` (k,), those of classes
    that are never drawn left out. An approximation; good from about 5 expected in each class."""
    from scipy.special import chdtrc

    there = expected > 0.0
    if counts[~there].any():
        return 0.0
    if there.sum() == 1:
        return 1.0  # the only class there can be
    drawn, awaited = counts[there], expected[there] / expected[there].sum() * counts.sum()
    return float(chdtrc(len(drawn) - 1, ((drawn - awaited) ** 2 / awaited).sum()))


def _check(seen: int, count: int) -> None:
    if not 0 <= seen <= count or count < 1:
        raise ValueError(f"of {count} draws {seen} were seen: that cannot be")
