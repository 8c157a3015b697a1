"""Copies are told from samples of one's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from genforge.evaluation import memorization
from genforge.evaluation.memorization import CLOSE, data_copying, nearest, pairs, rank_z

SIZE = 6


def draw(random: np.random.Generator, count: int) -> np.ndarray:
    """Features of real images: three clusters."""
    centres = np.eye(SIZE)[:3] * 6
    return (centres[random.integers(0, 3, count)] + random.normal(size=(count, SIZE))).astype(np.float32)


def test_the_nearest_is_found_by_looking_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    features, training = draw(random, 30), draw(random, 90)
    apart = np.linalg.norm(features[:, None] - training[None], axis=2)
    ordered = np.sort(apart, axis=1)
    found = nearest(features, training)
    assert np.array_equal(found.places, apart.argmin(axis=1))
    assert found.distances == pytest.approx(ordered[:, 0], rel=1e-5)
    assert found.closeness == pytest.approx(ordered[:, 0] / ordered[:, 1:51].mean(axis=1), rel=1e-5)
    monkeypatch.setattr(memorization, "CHUNK", 200)
    assert np.array_equal(nearest(features, training).closeness, found.closeness)


def test_a_copy_has_distance_0_exactly_and_a_near_one_is_near() -> None:
    random = np.random.default_rng(1)
    training = draw(random, 200) + 1000.0  # far from the origin, where the fast form of a distance loses its digits
    found = nearest(training[:50], training)
    assert np.array_equal(found.places, np.arange(50))
    assert (found.distances == 0.0).all() and found.copies.all()
    assert nearest(training[:50] + 0.02, training).copies.all()
    assert nearest(draw(random, 300) + 1000.0, training).copies.mean() < 0.15


def test_z_is_the_mann_whitney_tests() -> None:
    random = np.random.default_rng(2)
    first, second = random.integers(0, 9, 60).astype(float), random.integers(0, 9, 80).astype(float)  # with ties
    test = mannwhitneyu(first, second, alternative="less", method="asymptotic", use_continuity=False)
    from scipy.stats import norm

    assert norm.cdf(rank_z(first, second)) == pytest.approx(test.pvalue)
    assert rank_z(np.zeros(9), np.zeros(12)) == 0.0


def test_c_t_is_near_0_for_new_images_and_far_below_for_copies() -> None:
    random = np.random.default_rng(3)
    p_values, statistics = [], []
    for _ in range(60):
        training = draw(random, 150)
        found = data_copying(draw(random, 120), draw(random, 150), training)
        p_values.append(found.p_value)
        statistics.append(found.statistic)
    # Where nothing is copied the p-value is one: 5% of them are below 5%.
    assert np.mean(np.array(p_values) < 0.05) <= 0.15
    assert 0.3 < np.mean(np.array(p_values) < 0.5) < 0.7
    assert np.std(p_values) == pytest.approx(1 / np.sqrt(12), abs=0.05)
    assert min(statistics) > -3.0

    training = draw(random, 150)
    copied = training[random.integers(0, 150, 120)] + random.normal(size=(120, SIZE)).astype(np.float32) * 0.1
    found = data_copying(copied, draw(random, 150), training)
    assert found.statistic < -3.0 and found.p_value < 1e-6
    assert all(z < -3.0 for z in found.cells)
    assert data_copying(draw(random, 120) * 2.0, draw(random, 150), training).statistic > 3.0  # far from everything


def test_a_model_that_copies_one_cell_alone_is_seen_there() -> None:
    """Why there are cells: what is copied in one can hide behind what is far away in the others."""
    random = np.random.default_rng(4)
    training, held_out = draw(random, 300), draw(random, 300)
    samples = draw(random, 300)
    in_first = samples[:, 0] > 3
    near = nearest(samples, training)
    samples[in_first] = training[near.places[in_first]]
    samples[~in_first] += random.normal(size=((~in_first).sum(), SIZE)).astype(np.float32) * 1.5
    found = data_copying(samples, held_out, training, cells=3)
    assert min(found.cells) < -5.0 and max(found.cells) > 2.0


def test_without_images_in_any_cell_it_is_said() -> None:
    random = np.random.default_rng(5)
    with pytest.raises(ValueError, match="no cell"):
        data_copying(draw(random, 5), draw(random, 100), draw(random, 100))


def test_the_worst_pairs_stand_side_by_side() -> None:
    random = np.random.default_rng(6)
    training_images = random.integers(0, 255, (40, 8, 8, 1), dtype=np.uint8)
    training = training_images.reshape(40, -1).astype(np.float32)
    images = random.integers(0, 255, (10, 8, 8, 1), dtype=np.uint8)
    images[7] = training_images[33]
    images[2] = training_images[5]
    images[2, 0, 0, 0] ^= 16
    found = nearest(images.reshape(10, -1).astype(np.float32), training)
    assert (found.closeness < CLOSE).sum() == 2
    shown = pairs(images, training_images, found, count=2)
    assert shown.shape == (4, 8, 8, 1)
    assert np.array_equal(shown, [images[7], training_images[33], images[2], training_images[5]])
