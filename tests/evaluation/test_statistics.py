"""Metrics of subsets are those of torch-fidelity and of the papers' formulas, whichever images are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from genforge.contracts import ImageShape
from genforge.evaluation import statistics
from genforge.evaluation.features import Features
from genforge.evaluation.metrics import METRICS
from genforge.evaluation.statistics import (
    Coverage,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Precision,
    Recall,
    Statistic,
    statistic_of,
)

RANDOM = np.random.RandomState(0)
REFERENCE = RANDOM.normal(size=(120, 5)).astype(np.float32)
SEEN = Features(
    RANDOM.normal(0.3, 1.2, size=(80, 5)).astype(np.float32), RANDOM.normal(0, 2, size=(80, 4)).astype(np.float32)
)


def all_statistics() -> list[Statistic]:
    with_reference: list[Callable[[np.ndarray], Statistic]] = [
        FrechetDistance.to,
        KernelDistance,
        Precision,
        Recall,
        Coverage,
    ]
    return [InceptionScore(), *(make(REFERENCE) for make in with_reference)]


@pytest.mark.parametrize("statistic", all_statistics(), ids=lambda statistic: statistic.name)
def test_a_subset_counts_as_if_it_were_alone(statistic: Statistic, monkeypatch: pytest.MonkeyPatch) -> None:
    subsets = np.stack([np.random.default_rng(seed).permutation(80)[:30] for seed in range(5)])
    logits = SEEN.logits
    assert logits is not None
    alone = [statistic.of(Features(SEEN.features[subset], logits[subset])) for subset in subsets]
    assert statistic.over(SEEN, subsets) == pytest.approx(alone, rel=1e-9)
    monkeypatch.setattr(statistics, "CHUNK", 100)  # everything in many parts
    assert statistic.over(SEEN, subsets) == pytest.approx(alone, rel=1e-9)


def test_they_are_the_judges_numbers(
    judge_of: Callable[..., Any], linear: Callable[..., Any], images_of: Callable[..., np.ndarray]
) -> None:
    shape = ImageShape(1, 8, 8)
    real, generated = images_of(300, shape), images_of(200, shape, level=140, seed=1)
    extractor = linear(np.random.RandomState(3).normal(size=(64, 12)) / 100)
    judge = judge_of(extractor, real)
    seen, found = extractor.features(generated), judge.score(generated)
    statistic = {name: statistic_of(METRICS[name], judge.reference) for name in judge.metrics}
    for name in ("fid", "precision", "recall", "coverage", "density", "mind", "classes", "duplicates"):
        assert statistic[name].of(seen) == pytest.approx(found[name], rel=1e-5), name
        assert statistic[name].lower_is_better == (METRICS[name].better == "lower")
    # With one subset of everything, the reference cut to as many images, torch-fidelity's KID is the same estimate.
    assert statistic["kid"].of(seen) == pytest.approx(found["kid"], rel=0.2)


def test_the_kernel_distance_is_the_papers_sum() -> None:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.astype(float) @ y.astype(float) / 5 + 1) ** 3)

    few, real = SEEN.features[:6], REFERENCE[:7]
    own = np.mean([kernel(few[i], few[j]) for i in range(6) for j in range(6) if i != j])
    within = np.mean([kernel(real[i], real[j]) for i in range(7) for j in range(7) if i != j])
    across = np.mean([kernel(x, y) for x in few for y in real])
    assert KernelDistance(real).of(Features(few, None)) == pytest.approx(own + within - 2 * across)


def test_coverage_counts_the_real_images_that_are_reached() -> None:
    reached = 0
    for place, real in enumerate(REFERENCE):
        others = np.sort(np.linalg.norm(np.delete(REFERENCE, place, axis=0) - real, axis=1))
        reached += bool((np.linalg.norm(SEEN.features - real, axis=1) <= others[4]).any())
    assert Coverage(REFERENCE).of(SEEN) == pytest.approx(reached / len(REFERENCE))
    assert Coverage(REFERENCE).of(Features(REFERENCE, None)) == 1.0
    assert Coverage(REFERENCE).of(Features(REFERENCE[:1].repeat(50, axis=0), None)) < 0.3


def test_the_inception_score_counts_classes() -> None:
    sure = np.eye(4).repeat(5, axis=0) * 50
    assert InceptionScore().of(Features(sure, sure)) == pytest.approx(4.0)
    assert InceptionScore().of(Features(sure, np.zeros_like(sure))) == pytest.approx(1.0)


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    mean, scale = np.array([1.0, -2.0, 0.5]), np.array([1.0, 4.0, 0.25])
    statistic = FrechetDistance(mean, np.diag(np.sqrt(scale)))
    # Six points with mean 0 and covariance I exactly.
    points = np.concatenate([np.eye(3), -np.eye(3)]) * np.sqrt(5 / 2)
    expected = (mean**2).sum() + ((np.sqrt(scale) - 1) ** 2).sum()
    assert statistic.of(Features(points, None)) == pytest.approx(expected)
