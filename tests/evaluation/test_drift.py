"""The test of drift keeps its level exactly, finds what has changed, and its distance is KID."""

from __future__ import annotations

import numpy as np
import pytest

from genforge.evaluation.drift import look_for_drift
from genforge.evaluation.features import Features
from genforge.evaluation.statistics import KernelDistance

DIMENSIONS = 6


def features(random: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    """Skewed and of unequal spread, as an extractor's features are; `shift` moves each by so many of its spreads."""
    spreads = np.linspace(0.2, 0.6, DIMENSIONS)
    return (spreads * (random.gamma(4.0, 0.5, (count, DIMENSIONS)) + shift)).astype(np.float32)


def test_the_distance_is_kid_of_all_images() -> None:
    random = np.random.default_rng(0)
    known, new = features(random, 60), features(random, 45, 0.4)
    kid = KernelDistance(known).of(Features(new, None))
    assert look_for_drift(known, new, level=0.05, shuffles=19).kid == pytest.approx(kid, rel=1e-9)


def test_no_drift_is_called_drift_as_often_as_the_level_says() -> None:
    """A/A: two draws of one source, many times, with sides of unequal size. P-values are uniform on 1/20 ... 20/20."""
    random, trials = np.random.default_rng(1), 2000
    p_values = np.array(
        [
            look_for_drift(features(random, 30), features(random, 22), level=0.05, shuffles=19, seed=trial).p_value
            for trial in range(trials)
        ]
    )
    for level in (0.05, 0.1, 0.5):
        spread = (level * (1 - level) / trials) ** 0.5
        assert abs((p_values <= level + 1e-9).mean() - level) < 4 * spread


def test_power_grows_with_the_change_and_with_the_images() -> None:
    random = np.random.default_rng(2)

    def found(shift: float, count: int) -> float:
        return float(
            np.mean(
                [
                    look_for_drift(features(random, count), features(random, count, shift), 0.05, 99).has_drifted
                    for _ in range(40)
                ]
            )
        )

    small, larger = found(0.3, 60), found(0.6, 60)
    assert small < larger and larger > 0.7
    assert found(0.3, 400) > max(small, 0.9)


def test_words_and_numbers_agree() -> None:
    random = np.random.default_rng(3)
    drift = look_for_drift(features(random, 200), features(random, 200, 1.0), shuffles=199)
    assert drift.has_drifted and drift.p_value == 1 / 200
    assert "0 of 199 shuffles" in drift.words and "they have drifted" in drift.words
    same = look_for_drift(features(random, 50), features(random, 50), level=0.05, shuffles=19)
    assert same.has_drifted == (same.p_value <= 0.05)
    assert sum(value >= same.kid for value in same.null) == round(same.p_value * 20) - 1


def test_equal_images_are_no_drift_however_few_ways_there_are_to_deal_them() -> None:
    assert look_for_drift(np.ones((30, 3)), np.ones((25, 3)), level=0.05, shuffles=19).p_value == 1.0


def test_what_cannot_be_told_is_refused() -> None:
    many = np.zeros((50, 3))
    with pytest.raises(ValueError, match="20 of each"):
        look_for_drift(many, many[:19])
    with pytest.raises(ValueError, match="no p-value"):
        look_for_drift(many, many, level=0.001, shuffles=99)
    with pytest.raises(ValueError, match="not finite"):
        look_for_drift(many, np.full((50, 3), np.nan))
