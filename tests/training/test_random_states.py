"""Captured random states give the same draws again, also after a trip through JSON."""

from __future__ import annotations

import json
import random

import numpy as np
import torch

from genforge.randomness import seed_everything
from genforge.training.random_states import RandomStates, untouched


def draw() -> list[float]:
    # An odd number of normal draws: the second half of a Box-Muller pair is part of a state.
    return [random.random(), random.gauss(0, 1), float(np.random.normal()), float(torch.randn(())), random.random()]


def test_restored_generators_draw_the_same_again() -> None:
    seed_everything(3)
    draw()
    states = RandomStates.capture()
    first = draw()
    RandomStates(states.tensors, *json.loads(json.dumps([states.python, states.numpy]))).restore()
    assert draw() == first


def test_what_a_block_draws_changes_nothing_after_it() -> None:
    seed_everything(3)
    expected = draw()
    seed_everything(3)
    with untouched():
        draw()
    assert draw() == expected
