"""Labels of drawn images follow the data's class balance."""

from __future__ import annotations

import numpy as np
import pytest

from genforge.steps.labels import in_proportion


def test_equal_classes_cycle() -> None:
    assert in_proportion(np.array([7, 7, 7]), 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [1000, 1], [5, 0, 5], [3], [178, 182, 177, 183, 181]])
def test_every_beginning_is_as_near_the_balance_as_whole_numbers_can_be(counts: list[int]) -> None:
    labels = in_proportion(np.array(counts), 500)
    shares = np.array(counts) / sum(counts)
    for images in range(1, 501):
        drawn = np.bincount(labels[:images], minlength=len(counts))
        assert np.abs(drawn - shares * images).max() <= 1.0 + 1e-9
    assert not (np.array(counts) == 0)[labels].any(), "a class without images is never drawn"


def test_an_images_label_does_not_depend_on_how_many_are_drawn() -> None:
    counts = np.array([3, 1, 9])
    assert np.array_equal(in_proportion(counts, 300)[:50], in_proportion(counts, 50))
