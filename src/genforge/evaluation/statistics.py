"""Metrics as functions of any subset of a model's images, which is what error bars are made of.

Every metric of `measures/` is one (`Measured`), computed afresh for each subset. Those that gates and error bars ask
for most stand here a second time, for many subsets at once: whatever does not depend on the subset (distances, kernels)
is computed once. They give the numbers of `measures/`, which a test holds, but for KID and IS, which are taken of all
images at once and not of random parts: of the same meaning, with less noise. Features are float32 (n, dimensions) and
logits float32 (n, classes), as an extractor gives them; the real images stand fixed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from genforge.evaluation.features import Features
from genforge.evaluation.measures.frechet import MEAN, ROOT, moments, root_of
from genforge.evaluation.measures.neighbours import COVERAGE_NEIGHBOURS, FIDELITY_NEIGHBOURS, part_of
from genforge.evaluation.metric import Evidence, Metric
from genforge.evaluation.reference import SEED, Reference
from genforge.evaluation.threads import blas_threads

CHUNK = 2**22  # numbers that are worked on together


class Statistic(ABC):
    """One metric against one reference. name: as in the tables. lower_is_better: which way is better."""

    name: str
    lower_is_better: bool

    def of(self, seen: Features) -> float:
        """The metric of all images."""
        return float(self.over(seen, np.arange(len(seen.features))[None])[0])

    def over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        """The metric of each subset.

        Args:
            subsets: int (subsets, images), places in `seen`, none twice in a row.

        Returns:
            float64 (subsets,).
        """
        with blas_threads(seen.features.shape[1]):
            return self._over(seen, subsets)

    @abstractmethod
    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        """The same, on the threads that it is given."""


class Measured(Statistic):
    """Any metric of images, by its own function."""

    def __init__(self, metric: Metric, reference: Reference) -> None:
        self.name, self.lower_is_better = metric.name, metric.better == "lower"
        self.metric, self.reference = metric, reference

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        real = self.reference.features
        settings = self.metric.settings(subsets.shape[1], len(real))
        found = []
        for subset in subsets:
            logits = None if seen.logits is None else seen.logits[subset]
            evidence = Evidence(seen.features[subset], logits, real, self.reference.prepared, SEED)
            found.append(self.metric.compute(evidence, **settings))
        return np.array(found)


class FrechetDistance(Statistic):
    """FID: |m - r|^2 + tr S + tr R - 2 tr (L^T S L)^1/2, of the moments (m, S) of the images and (r, R = L L^T) of the
    reference, as in `measures/frechet.py`, of many subsets at once.

    Args:
        mean: of the reference, (dimensions,). root: any L with L L^T its covariance, (dimensions, dimensions).
    """

    name, lower_is_better = "fid", True

    def __init__(self, mean: np.ndarray, root: np.ndarray) -> None:
        self.mean, self.root = np.asarray(mean, np.float64), np.asarray(root, np.float64)
        self.trace = float((self.root**2).sum())

    @classmethod
    def to(cls, reference: np.ndarray) -> FrechetDistance:
        """To the moments of these features, (n, dimensions)."""
        mean, covariance = moments(reference)
        return cls(mean, root_of(covariance))

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        features = seen.features.astype(np.float64)
        together = max(1, CHUNK // (subsets.shape[1] * features.shape[1]))
        parts = [self._distances(features[part]) for part in _parts(subsets, together)]
        return np.concatenate(parts)

    def _distances(self, features: np.ndarray) -> np.ndarray:
        """Of each set in (sets, images, dimensions)."""
        means = features.mean(axis=1)
        centred = features - means[:, None]
        covariances = centred.transpose(0, 2, 1) @ centred / (features.shape[1] - 1)
        eigenvalues = np.linalg.eigvalsh(self.root.T @ covariances @ self.root)
        roots = np.sqrt(eigenvalues.clip(0.0)).sum(axis=1)
        traces = np.trace(covariances, axis1=1, axis2=2)
        return ((means - self.mean) ** 2).sum(axis=1) + traces + self.trace - 2.0 * roots


class KernelDistance(Statistic):
    """KID: the unbiased estimate of the squared maximum mean discrepancy under k(x, y) = (x.y / dimensions + 1)^3
    (Binkowski et al. 2018, equation 4), of all images at once and not of drawn subsets: of the same expectation, with
    less noise."""

    name, lower_is_better = "kid", True

    def __init__(self, reference: np.ndarray) -> None:
        self.reference = reference.astype(np.float64)
        self.within = self._mean_of_others(self.reference)

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        features, count = seen.features.astype(np.float64), subsets.shape[1]
        kernel = self._kernel(features, features)
        np.fill_diagonal(kernel, 0.0)
        across = np.concatenate([self._kernel(part, self.reference).mean(axis=1) for part in _parts(features, 1000)])
        chosen = np.zeros((len(subsets), len(features)))
        np.put_along_axis(chosen, subsets, 1.0, axis=1)
        own = ((chosen @ kernel) * chosen).sum(axis=1) / (count * (count - 1))
        return own + self.within - 2.0 * chosen @ across / count

    @staticmethod
    def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return (first @ second.T / first.shape[1] + 1.0) ** 3

    def _mean_of_others(self, features: np.ndarray) -> float:
        total = sum(self._kernel(part, features).sum() for part in _parts(features, 1000))
        itself = ((features**2).mean(axis=1) + 1.0) ** 3
        return float((total - itself.sum()) / (len(features) * (len(features) - 1)))


class InceptionScore(Statistic):
    """IS: exp of the mean divergence of an image's classes from those of all (Salimans et al. 2016, section 4), of all
    images at once and not the mean over ten parts."""

    name, lower_is_better = "is", False

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        from scipy.special import log_softmax

        assert seen.logits is not None, "IS needs an extractor that names classes"
        logs = log_softmax(seen.logits.astype(np.float64), axis=1)
        probabilities = np.exp(logs)
        sharpness = (probabilities * logs).sum(axis=1)
        means = np.stack([probabilities[subset].mean(axis=0) for subset in subsets])
        entropies = -(means * np.log(means.clip(1e-300))).sum(axis=1)
        return np.exp(sharpness[subsets].mean(axis=1) + entropies)


class Precision(Statistic):
    """Share of the images that lie in a neighbourhood of a real one: a ball that reaches to its third nearest other
    (Kynkaanniemi et al. 2019, equation 1)."""

    name, lower_is_better = "precision", False

    def __init__(self, reference: np.ndarray) -> None:
        self.reference, self.radii = reference, radii(reference, FIDELITY_NEIGHBOURS)

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        inside = np.concatenate(
            [(part <= self.radii).any(axis=1) for part in _distances_in_parts(seen.features, self.reference)]
        )
        return inside[subsets].mean(axis=1)


class Recall(Statistic):
    """Share of the real images that lie in a neighbourhood of a generated one (the same, the other way round). It grows
    with the number of images."""

    name, lower_is_better = "recall", False

    def __init__(self, reference: np.ndarray) -> None:
        self.reference = reference

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        features = seen.features
        if len(subsets) == 1 or len(features) > 4000:  # all distances at once would be too many
            return np.array([self._of(features[subset]) for subset in subsets])
        own, across = distances(features, features), distances(self.reference, features)
        found = []
        for subset in subsets:
            reach = np.partition(own[np.ix_(subset, subset)], FIDELITY_NEIGHBOURS, axis=1)[:, FIDELITY_NEIGHBOURS]
            found.append((across[:, subset] <= reach).any(axis=1).mean())
        return np.array(found)

    def _of(self, features: np.ndarray) -> float:
        reach = radii(features, FIDELITY_NEIGHBOURS)
        inside = [(part <= reach).any(axis=1) for part in _distances_in_parts(self.reference, features)]
        return float(np.concatenate(inside).mean())


class Coverage(Statistic):
    """Share of the real images whose neighbourhood (to the fifth nearest other real one) holds a generated image (Naeem
    et al. 2020, equation 8). It grows with the number of images."""

    name, lower_is_better = "coverage", False

    def __init__(self, reference: np.ndarray) -> None:
        self.reference, self.radii = reference, radii(reference, COVERAGE_NEIGHBOURS)

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        inside = np.concatenate(  # (images, real)
            [part <= self.radii for part in _distances_in_parts(seen.features, self.reference)]
        )
        return np.array([inside[subset].any(axis=0).mean() for subset in subsets])


def statistic_of(metric: Metric, reference: Reference) -> Statistic:
    """A metric of images as a statistic: in its fast form where it has one."""
    with blas_threads(reference.features.shape[1]):
        return _statistic_of(metric, reference)


def _statistic_of(metric: Metric, reference: Reference) -> Statistic:
    real = reference.features
    match metric.name:
        case "fid":
            return FrechetDistance(reference.prepared[MEAN], reference.prepared[ROOT])
        case "kid":
            return KernelDistance(real)
        case "is":
            return InceptionScore()
        case "precision":
            return Precision(real[part_of(len(real), SEED)])
        case "recall":
            return Recall(real[part_of(len(real), SEED)])
        case "coverage":
            return Coverage(real[part_of(len(real), SEED)])
    return Measured(metric, reference)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Euclidean, (n, m) of features (n, d) and (m, d), in float64: in float32 the distance of two copies would be
    rounding alone."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2.0 * first @ second.T
    return np.sqrt(squares.clip(0.0))


def radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance of each to its `neighbours`-th nearest other, (n,)."""
    parts = _distances_in_parts(features, features)
    return np.concatenate([np.partition(part, neighbours, axis=1)[:, neighbours] for part in parts])


def _distances_in_parts(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    for part in _parts(first, max(1, CHUNK // len(second))):
        yield distances(part, second)


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
