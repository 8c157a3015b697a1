"""Eight Gaussians on a ring, on which generators are known to forget modes: those with a bound on the critic's slopes
cover all. The whole experiment, over five seeds, is tests/benchmarks/gan_ring.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.benchmarks.gan_ring import MODES, VARIANTS, covered, drawn, shares


def test_a_point_counts_for_the_mode_that_it_is_near_to() -> None:
    angles = 2 * np.pi * np.arange(MODES) / MODES
    centres = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    half = np.concatenate([centres[:4].repeat(100, axis=0), np.zeros((400, 2))]).astype(np.float32)[:, None, None]
    np.testing.assert_allclose(shares(half), [0.125] * 4 + [0.0] * 4)
    assert covered(half) == 4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["relativistic, R1 and R2", "non-saturating, R1"])
def test_all_eight_modes_are_covered(variant: str) -> None:
    torch.set_num_threads(1)
    assert variant in VARIANTS
    assert covered(drawn(variant, seed=0, steps=500)) == MODES
