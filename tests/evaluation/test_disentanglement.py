"""The measures on codes whose factors are known because the codes were made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from genforge.evaluation.disentanglement import BINS, _information, _ranks, disentanglement

NAMES = ("height", "width", "hue")


def factors(count: int = 2000) -> np.ndarray:
    drawn = np.random.default_rng(0).random((count, 3))
    drawn[:, 2] = 0.5  # one that does not vary
    return drawn


def test_a_dimension_for_each_factor_is_perfect_up_to_scale_sign_and_bend() -> None:
    known = factors()
    codes = np.stack([-np.exp(3 * known[:, 1]), 7 + known[:, 0] ** 3], axis=1)
    found = disentanglement(codes, known, NAMES)
    assert found is not None and found.factors == ("height", "width")
    np.testing.assert_allclose(
        found.rank_correlation, [[found.rank_correlation[0][0], -1], [1, found.rank_correlation[1][1]]]
    )
    assert abs(found.rank_correlation[0][0]) < 0.06
    assert found.mig > 0.95 and found.images == 2000
    assert "height by dimension 1 (+1.00)" in found.in_words() and "width by dimension 0 (-1.00)" in found.in_words()


def test_factors_turned_into_each_other_are_found_and_not_told_apart() -> None:
    known = factors()
    turned = np.stack([known[:, 0] + known[:, 1], known[:, 0] - known[:, 1]], axis=1)
    found = disentanglement(turned, known, NAMES)
    assert found is not None and found.mig < 0.1
    assert all(0.6 < abs(value) < 0.8 for row in found.rank_correlation for value in row)


def test_a_factor_that_two_dimensions_tell_alike_has_no_gap() -> None:
    """Chen et al. 2018, eq. 6: the best less the second best, however little a third knows."""
    known = factors()
    found = disentanglement(np.stack([known[:, 0], known[:, 1], -known[:, 1]], axis=1), known, NAMES)
    assert found is not None
    assert found.gaps == pytest.approx((1.0, 0.0), abs=0.03) and found.mig == pytest.approx(np.mean(found.gaps))


def test_rank_correlation_is_scipy_s_with_ties_too() -> None:
    generator = np.random.default_rng(1)
    codes, known = generator.integers(0, 9, (300, 3)).astype(float), generator.integers(0, 5, (300, 2)).astype(float)
    found = disentanglement(codes, known, ("first", "second"))
    assert found is not None
    expected = [[spearmanr(code, factor).statistic for factor in known.T] for code in codes.T]
    np.testing.assert_allclose(found.rank_correlation, expected, atol=1e-12)


def test_information_of_a_column_about_itself_is_its_entropy_and_about_noise_nearly_nothing() -> None:
    ranks = _ranks(np.random.default_rng(2).random((5000, 2)))
    assert _information(ranks[:, 0], ranks[:, 0]) == pytest.approx(math.log(BINS))
    assert 0 < _information(ranks[:, 0], ranks[:, 1]) < 0.02


def test_a_dead_dimension_knows_nothing() -> None:
    known = factors()
    found = disentanglement(np.stack([known[:, 0], np.zeros(2000)], axis=1), known, NAMES)
    assert found is not None
    assert found.rank_correlation[1] == (0.0, 0.0)
    assert found.information[1] == pytest.approx((0.0, 0.0), abs=1e-12)


def test_where_nothing_varies_there_is_nothing_to_know() -> None:
    assert disentanglement(np.ones((200, 2)), np.ones((200, 3)), NAMES) is None
    with pytest.raises(ValueError, match="99 images are too few"):
        disentanglement(np.ones((99, 2)), np.ones((99, 3)), NAMES)
