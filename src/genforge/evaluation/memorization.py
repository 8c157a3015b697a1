"""Does a model draw new images, or those that it was trained on?

Each sample's nearest training image in feature space is set against the same for held-out real images, which nobody can
have copied. Two questions, for two ways to copy:

- Do samples lie closer to the training images than held-out ones do? The statistic C_T of Meehan, Chaudhuri and
  Dasgupta 2020, "A non-parametric test to detect data-copying in generative models".
- Is a sample a copy of one image, as opposed to one of many that look alike? Its distance to the nearest training
  image, as a share of its mean distance to the 50 that follow (after Carlini et al. 2023, "Extracting training data
  from diffusion models", section 4.2, where copies of the pixels are looked for in this way).

Assumed: held-out images are independent draws of what the training images were drawn from (duplicates were removed
before the split). The features decide what a copy is: a change that the extractor does not see is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genforge.evaluation.statistics import distances

NEIGHBOURHOOD = 50  # training images that a nearest one is compared with
CLOSE = 1 / 3  # a nearer copy than this share of the neighbourhood's distance is one; 0.5% of held-out digits are
CELLS = 5  # of the training images, by k-means; at most one for 50 held-out images
FEWEST_IN_CELL = 10  # samples and held-out images, for the normal approximation of ranks
CHUNK = 2**22  # distances held at once


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each of n images. places: int (n,). distances: float (n,), in feature space.
    closeness: float (n,), the distance as a share of the mean distance to the training images that follow; 0 for a
    copy, near 1 where nothing is especially near."""

    places: np.ndarray
    distances: np.ndarray
    closeness: np.ndarray

    @property
    def copies(self) -> np.ndarray:
        """Which images are near copies, bool (n,)."""
        return self.closeness < CLOSE


@dataclass(frozen=True)
class DataCopying:
    """statistic: C_T, the mean z of the cells, weighted by their shares of held-out images; far below 0: samples lie
    closer to the training images than held-out ones do; far above: further away. cells: z of each cell with enough
    images. p_value: of a C_T as low as this where nothing was copied; C_T has a smaller spread than each z.
    """

    statistic: float
    cells: tuple[float, ...]
    p_value: float


def nearest(features: np.ndarray, training: np.ndarray) -> Nearest:
    """The nearest training image of each image.

    Args:
        features: (n, dimensions). training: (m, dimensions), m at least 3.
    """
    if len(training) < 3:
        raise ValueError(f"{len(training)} training images are too few to have neighbours")
    around = min(NEIGHBOURHOOD, len(training) - 1)
    places, near, closeness = [], [], []
    size = max(1, CHUNK // len(training))
    for start in range(0, len(features), size):
        apart = distances(features[start : start + size], training)
        order = np.argpartition(apart, around, axis=1)[:, : around + 1]
        found = np.take_along_axis(apart, order, axis=1)
        first = found.argmin(axis=1)[:, None]
        place = np.take_along_axis(order, first, axis=1)[:, 0]
        # The distance itself once more, without the cancellation that the fast form suffers from near 0.
        exact = np.linalg.norm(features[start : start + size].astype(np.float64) - training[place], axis=1)
        others = (found.sum(axis=1) - np.take_along_axis(found, first, axis=1)[:, 0]) / around
        places.append(place)
        near.append(exact)
        closeness.append(np.divide(exact, others, out=np.ones_like(exact), where=others > 0.0))
    return Nearest(np.concatenate(places), np.concatenate(near), np.concatenate(closeness))


def data_copying(
    samples: np.ndarray, held_out: np.ndarray, training: np.ndarray, cells: int = CELLS, seed: int = 0
) -> DataCopying:
    """C_T (Meehan et al. 2020, section 3): in each cell pi of the space, the Mann-Whitney z of the distances to the
    nearest training image, of samples Q against held-out images P,

        Z = (U - m n / 2) / sqrt(m n (m + n + 1) / 12),    U = pairs in which the sample is the further one,

    (ties count a half, and narrow the spread), then C_T = sum P(pi) Z(pi) / sum P(pi) over the cells that hold enough
    of both. Where nothing was copied, Z of different cells are independent and nearly standard normal, so that C_T has
    the variance sum P(pi)^2 / (sum P(pi))^2.

    Args:
        samples, held_out, training: features, (n, dimensions) each.

    Raises:
        ValueError: no cell holds enough samples and held-out images.
    """
    from sklearn.cluster import KMeans

    cells = max(1, min(cells, len(held_out) // NEIGHBOURHOOD))
    clusters = KMeans(cells, n_init=3, random_state=seed).fit(training.astype(np.float64))
    of_samples, of_held_out = (clusters.predict(side.astype(np.float64)) for side in (samples, held_out))
    ours, theirs = nearest(samples, training).distances, nearest(held_out, training).distances
    scores, weights = [], []
    for cell in range(cells):
        first, second = ours[of_samples == cell], theirs[of_held_out == cell]
        if min(len(first), len(second)) >= FEWEST_IN_CELL:
            scores.append(rank_z(first, second))
            weights.append(len(second))
    if not scores:
        raise ValueError(
            f"no cell of the feature space holds {FEWEST_IN_CELL} samples and as many held-out images, so that copying "
            f"cannot be tested; the samples lie where no real image does, or there are too few"
        )
    from scipy.special import ndtr

    shares = np.array(weights) / sum(weights)
    statistic = float(shares @ scores)
    spread = float(np.sqrt((shares**2).sum()))
    return DataCopying(statistic, tuple(scores), float(ndtr(statistic / spread)))


def rank_z(first: np.ndarray, second: np.ndarray) -> float:
    """z of the Mann-Whitney U of `first` being larger than `second`, by mid-ranks (Mann and Whitney 1947). 0 when all
    values are equal."""
    m, n = len(first), len(second)
    _, places, ties = np.unique(np.concatenate([first, second]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[places]
    u = ranks[:m].sum() - m * (m + 1) / 2
    total = m + n
    variance = m * n / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return float((u - m * n / 2) / np.sqrt(variance)) if variance > 0.0 else 0.0


def pairs(samples: np.ndarray, training: np.ndarray, found: Nearest, count: int = 24) -> np.ndarray:
    """The samples that look most like copies, each followed by its nearest training image: uint8 (2 * count, height,
    width, channels), the worst first. For a grid with an even number of columns.

    Args:
        samples, training: uint8 (n, height, width, channels), in the order of `found` and of its places.
    """
    worst = np.lexsort((found.distances, found.closeness))[:count]
    both = np.stack([samples[worst], np.asarray(training)[found.places[worst]]], axis=1)
    return both.reshape(-1, *samples.shape[1:])
