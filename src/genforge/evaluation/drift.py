"""Drift: whether new images come from where known ones came from.

The question is asked in feature space, of the squared maximum mean discrepancy under the kernel of KID,
k(x, y) = (x.y / dimensions + 1)^3 (Binkowski et al. 2018, equation 4), in its unbiased form, and answered by a
permutation test (Gretton et al. 2012, "A kernel two-sample test", section 5 for the statistic): if nothing has drifted,
known and new images are draws from one source, so whatever deals them anew into two groups of the same sizes gives the
same distribution of distances. With the measured distance among the shuffles,

    p = (1 + number of shuffles at least as far apart) / (1 + shuffles),

and P(p <= level) <= level holds exactly, at any number of images and of any features, with equality where
level * (1 + shuffles) is whole and no two distances are equal (Phipson and Smyth 2010, "Permutation p-values should
never be zero").

What it rests on: the known images are held-out ones. An extractor that was trained on an image sees it otherwise than
one that it never saw, and then the two groups would differ although nothing has drifted.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FEWEST, MOST = 20, 1000  # images of a side: fewer say nothing, more cost memory with their square
SHUFFLES = 999


@dataclass(frozen=True)
class Drift:
    """What the test found.

    kid: measured, squared distance without bias (a little below 0 is possible). p_value: of no drift.
    known, new: images that were compared. null: the distance in each shuffle, ascending.
    """

    kid: float
    p_value: float
    level: float
    known: int
    new: int
    null: tuple[float, ...]

    @property
    def has_drifted(self) -> bool:
        return self.p_value <= self.level

    @property
    def words(self) -> str:
        """The finding in a sentence."""
        farther = round(self.p_value * (len(self.null) + 1)) - 1
        said = "they have drifted" if self.has_drifted else "that is no drift"
        return (
            f"KID {self.kid:.4g} between {self.new} new images and {self.known} known ones; {farther} of "
            f"{len(self.null)} shuffles lie as far apart, p = {self.p_value:.3g} at level {self.level:g}: {said}"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "null": list(self.null), "drifted": self.has_drifted, "words": self.words}


def look_for_drift(
    known: np.ndarray,
    new: np.ndarray,
    level: float = 0.01,
    shuffles: int = SHUFFLES,
    most: int = MOST,
    seed: int = 0,
) -> Drift:
    """Whether `new` features come from where `known` ones came from.

    Args:
        known, new: features (n, dimensions) of images that the extractor was not trained on.
        level: the probability to see a drift where there is none.
        shuffles: more tell smaller p-values apart.
        most: images of a side; of more, a random part stands for all.
        seed: of the part and of the shuffles.

    Raises:
        ValueError: a side has fewer than 20 images; no p-value can be as small as `level`; a feature is not finite.
    """
    if min(len(known), len(new)) < FEWEST:
        raise ValueError(f"{len(known)} known and {len(new)} new images; drift needs {FEWEST} of each at least")
    if level * (shuffles + 1) < 1.0:
        raise ValueError(f"with {shuffles} shuffles no p-value is below {1 / (shuffles + 1):.2g}; level is {level:g}")
    random = np.random.default_rng(seed)
    known, new = (side[np.sort(random.permutation(len(side))[:most])].astype(np.float64) for side in (known, new))
    if not (np.isfinite(known).all() and np.isfinite(new).all()):
        raise ValueError("some features are not finite")
    together = np.concatenate([known, new])
    kernel = (together @ together.T / together.shape[1] + 1.0) ** 3
    np.fill_diagonal(kernel, 0.0)  # an image's likeness to itself is not counted
    # Column 0 is the true deal, so that what it shares with a shuffle is rounded alike.
    deals = np.zeros((len(together), shuffles + 1))
    deals[: len(known), 0] = 1.0
    for shuffle in range(1, shuffles + 1):
        deals[random.permutation(len(together))[: len(known)], shuffle] = 1.0
    distances = _distances(kernel, deals)
    measured, null = distances[0], distances[1:]
    slack = 1e-12 * float(np.abs(kernel).mean())  # equal distances may differ by rounding: they count as reached
    reached = int((null >= measured - slack).sum())
    p_value = (1 + reached) / (1 + shuffles)
    return Drift(float(measured), p_value, level, len(known), len(new), tuple(map(float, np.sort(null))))


def _distances(kernel: np.ndarray, deals: np.ndarray) -> np.ndarray:
    """Squared distance of the two groups of each deal, without bias, (deals,).

    Args:
        kernel: (n, n) with zeros on its diagonal. deals: (n, deals), 1 for the first group and 0 for the second.
    """
    first = deals.sum(axis=0)
    second = len(kernel) - first
    of_each = kernel.sum(axis=1)
    within_first = np.einsum("nd,nd->d", deals, kernel @ deals)
    across = of_each @ deals - within_first
    within_second = math.fsum(of_each) - within_first - 2.0 * across
    means = within_first / (first * (first - 1)) + within_second / (second * (second - 1))
    return np.asarray(means - 2.0 * across / (first * second))
