"""How sure a number is, and how sure it is that one model is better than another.

What is estimated: a metric at the protocol's number of images n, its expectation over sampling noise, for one trained
model against one fixed set of real images. Luck in training (another seed of the weights) is not in it; whoever wants
to compare recipes and not models trains several. Assumed: images of a model are independent draws. Those of a
conditional model, whose labels are dealt evenly, vary less than that, so their error bars are too wide rather than too
narrow.

How: by regrouping images, and not by a bootstrap with replacement. A bootstrap sample holds 63% of the images, some of
them several times, and FID, KID and every metric of nearest neighbours take that for a lack of variety: their bootstrap
values lie to one side of the estimate (FID's bias of order 1/n doubles). Instead the images of all S sampling seeds are
shuffled and dealt into S groups of n again, many times. The groups of one deal are S independent sets of n images each,
all different, so

    s^2 = sum over groups (metric(group) - mean over groups)^2 / (S - 1)

is an unbiased estimate of the metric's variance at n images, for any metric, smooth or not, with its bias the same in
every group; the mean over many deals is as unbiased and varies less. The standard error of the mean over seeds is
s / sqrt(S). (Subsampling: Politis and Romano 1994; for S = 2 random half-samples: McCarthy 1969.) A single set of
images is dealt into two halves; the error at n is then that of a mean of two halves, which holds to first order in 1/n.

The estimate is the mean over seeds, never the best of them. Intervals and probabilities take it as normal. Two models
are compared on the same noise seeds with the same deals, so that whatever they share cancels. The probability that the
first is better is that of a normal with the measured difference and its standard error: 1 minus the p-value of a
one-sided test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genforge.evaluation.features import Features
from genforge.evaluation.statistics import FrechetDistance, Statistic

DEALS = 50  # with three seeds the standard error is then known to a few percent
CONFIDENCE = 0.95  # of intervals
SURE = 0.99  # probability from which one model is called better; so the same model twice is called different in 2%
SIZES = 15  # points of the line of FID-infinity


@dataclass(frozen=True)
class Estimate:
    """A metric's mean over sampling seeds with its standard error, and the interval that holds the expectation with
    probability `confidence`. values: one a seed."""

    mean: float
    standard_error: float
    low: float
    high: float
    confidence: float
    values: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "values": list(self.values)}


@dataclass(frozen=True)
class Comparison:
    """Two models by one metric.

    difference: the first's mean minus the second's; low, high: its interval of `confidence`.
    margin: by how much the first has to be better (negative: may be worse). probability: that it is.
    """

    metric: str
    first: float
    second: float
    difference: float
    standard_error: float
    low: float
    high: float
    confidence: float
    margin: float
    probability: float

    def differ(self, sure: float = SURE) -> bool:
        """Whether one is better than the other with probability `sure`, whichever it is (asked with margin 0)."""
        return not 1.0 - sure < self.probability < sure

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Extrapolation:
    """FID-infinity: `value` + `slope` / size is the line through the mean FID at each of `sizes`."""

    value: float
    slope: float
    sizes: tuple[int, ...]
    means: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        told = {**asdict(self), "sizes": list(self.sizes), "means": list(self.means)}
        return {**told, "formula": "FID_N = value + slope / N"}


def estimate(
    statistic: Statistic, seen: Sequence[Features], deals: int = DEALS, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """A metric with its error bar.

    Args:
        seen: one set of features for each sampling seed, at least 4 images each.
        deals: of the images into groups. seed: of the deals.
    """
    values = np.array([statistic.of(one) for one in seen])
    mean, error = float(values.mean()), standard_error(statistic, seen, deals, seed)
    reach = _reach(confidence) * error
    return Estimate(mean, error, mean - reach, mean + reach, confidence, tuple(map(float, values)))


def standard_error(statistic: Statistic, seen: Sequence[Features], deals: int = DEALS, seed: int = 0) -> float:
    """Of the mean over sampling seeds."""
    return _standard_error(_deviations(statistic, seen, deals, seed))


def compare(
    statistic: Statistic,
    first: Sequence[Features],
    second: Sequence[Features],
    margin: float = 0.0,
    deals: int = DEALS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Whether the first model is better than the second, and how sure that is.

    Args:
        first, second: one set of features for each sampling seed, of the same seeds and with as many images.
        margin: by how much the first has to be better, in the metric's units; negative: by how much it may be worse.

    Raises:
        ValueError: the two do not have the same seeds or numbers of images, so that bias does not cancel.
    """
    if [len(one.features) for one in first] != [len(one.features) for one in second]:
        raise ValueError("two models are compared on as many images of as many seeds")
    ours, theirs = (float(np.mean([statistic.of(one) for one in side])) for side in (first, second))
    apart = _deviations(statistic, first, deals, seed) - _deviations(statistic, second, deals, seed)
    difference, error = ours - theirs, _standard_error(apart)
    reach = _reach(confidence) * error
    gain = (-difference if statistic.lower_is_better else difference) - margin
    return Comparison(
        statistic.name,
        ours,
        theirs,
        difference,
        error,
        difference - reach,
        difference + reach,
        confidence,
        margin,
        _probability(gain, error),
    )


def frechet_infinity(
    statistic: FrechetDistance, features: np.ndarray, smallest: float = 0.25, seed: int = 0
) -> Extrapolation:
    """FID without its bias from finite images (Chong and Forsyth 2020, "Effectively unbiased FID and Inception Score
    and where to find them", section 3): E[FID_N] = FID_infinity + b / N + O(1 / N^2), so the line of FID against
    1 / N is followed to 1 / N = 0.

    As there, 15 sizes from `smallest` of the images to all; unlike there, sizes lie evenly in 1 / N, and the value at
    each is the mean over as many disjoint random subsets as there are, weighted by that number in the fit.

    Args:
        features: of all images of the model (all sampling seeds), (n, dimensions).
        smallest: share of the images in the smallest subset. N has to be well above the number of dimensions, or the
            line is a curve; with fewer images than that, raises ValueError.
    """
    count = len(features)
    if smallest * count <= features.shape[1]:
        raise ValueError(
            f"FID-infinity needs subsets of more images than features ({features.shape[1]}), but the smallest here has "
            f"{int(smallest * count)}; draw more images"
        )
    sizes = sorted({round(1.0 / x) for x in np.linspace(1.0 / count, 1.0 / (smallest * count), SIZES)})
    random = np.random.default_rng(seed)
    seen = Features(features, None)
    means, weights = [], []
    for size in sizes:
        disjoint = count // size
        subsets = random.permutation(count)[: disjoint * size].reshape(disjoint, size)
        means.append(float(statistic.over(seen, subsets).mean()))
        weights.append(disjoint)
    slope, value = np.polyfit(1.0 / np.array(sizes), means, deg=1, w=np.sqrt(weights))
    return Extrapolation(float(value), float(slope), tuple(sizes), tuple(means))


def deal(count: int, groups: int, deals: int, seed: int) -> np.ndarray:
    """Places of `count` images, dealt at random into groups of equal size: int (deals, groups, count // groups)."""
    random = np.random.default_rng(seed)
    orders = random.permuted(np.broadcast_to(np.arange(count), (deals, count)), axis=1)
    size = count // groups
    return orders[:, : groups * size].reshape(deals, groups, size)


def _deviations(statistic: Statistic, seen: Sequence[Features], deals: int, seed: int) -> np.ndarray:
    """How far each group of each deal is from the mean of its deal, (deals, groups)."""
    images = pooled(seen)
    dealt = deal(len(images.features), max(2, len(seen)), deals, seed)
    found = statistic.over(images, dealt.reshape(-1, dealt.shape[2])).reshape(dealt.shape[:2])
    return found - found.mean(axis=1, keepdims=True)


def pooled(seen: Sequence[Features]) -> Features:
    """The images of all sampling seeds as one set."""
    features = np.concatenate([one.features for one in seen])
    logits = [one.logits for one in seen if one.logits is not None]
    return Features(features, np.concatenate(logits) if logits else None)


def _standard_error(deviations: np.ndarray) -> float:
    """Of the mean over groups."""
    groups = deviations.shape[1]
    return float(np.sqrt((deviations**2).sum(axis=1).mean() / (groups - 1) / groups))


def _reach(confidence: float) -> float:
    """Standard errors on each side of the mean within which a normal lies with this probability."""
    from scipy.special import ndtri  # its distribution and the inverse of it, without all of `scipy.stats`

    return float(ndtri(0.5 + confidence / 2))


def _probability(gain: float, error: float) -> float:
    """That the true gain is above 0."""
    from scipy.special import ndtr

    if error > 0.0:
        return float(ndtr(gain / error))
    return 0.5 if gain == 0.0 else float(math.copysign(0.5, gain) + 0.5)
