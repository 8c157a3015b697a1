"""Exact bounds: closed forms, the binomial itself, and coverage counted over every outcome."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from genforge.evaluation.proportions import draws_needed, interval, lower_bound, same_shares, shares, upper_bound


def test_with_none_seen_the_bound_is_the_closed_form() -> None:
    assert upper_bound(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299))
    assert lower_bound(0, 299) == 0.0
    assert upper_bound(7, 7) == 1.0
    assert lower_bound(7, 7) == pytest.approx(0.05 ** (1 / 7))


@pytest.mark.parametrize(("seen", "count"), [(1, 20), (3, 500), (250, 500)])
def test_at_the_bound_as_few_as_were_seen_come_with_what_is_left_of_the_confidence(seen: int, count: int) -> None:
    assert binom.cdf(seen, count, upper_bound(seen, count, 0.9)) == pytest.approx(0.1)
    assert binom.sf(seen - 1, count, lower_bound(seen, count, 0.9)) == pytest.approx(0.1)
    assert interval(seen, count, 0.8) == (lower_bound(seen, count, 0.9), upper_bound(seen, count, 0.9))


@pytest.mark.parametrize("truth", [0.004, 0.01, 0.1, 0.5])
def test_the_bound_holds_at_least_as_often_as_it_says(truth: float) -> None:
    """The probability of every outcome that gives a bound above the truth, summed: nothing is drawn."""
    holds = sum(binom.pmf(seen, 120, truth) for seen in range(121) if upper_bound(seen, 120) >= truth)
    assert holds >= 0.95


def test_how_many_draws_a_limit_needs() -> None:
    assert draws_needed(0.01) == 299
    for limit in (0.001, 0.02, 0.3):
        needed = draws_needed(limit)
        assert upper_bound(0, needed) <= limit < upper_bound(0, needed - 1)


def test_intervals_of_shares_hold_together() -> None:
    random, truth = np.random.default_rng(0), np.array([0.5, 0.3, 0.15, 0.05])
    held = 0
    for counts in random.multinomial(100, truth, size=400):
        bounds = shares(counts)
        held += bool(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).all())
    assert held >= 0.95 * 400


def test_shares_that_differ_are_told_apart() -> None:
    assert same_shares(np.array([50, 30, 20]), np.array([0.5, 0.3, 0.2])) == pytest.approx(1.0)
    assert same_shares(np.array([80, 10, 10]), np.array([0.5, 0.3, 0.2])) < 1e-6
    assert same_shares(np.array([50, 50, 1]), np.array([0.5, 0.5, 0.0])) == 0.0
    assert same_shares(np.array([50, 50, 0]), np.array([0.5, 0.5, 0.0])) == pytest.approx(1.0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        upper_bound(4, 3)
