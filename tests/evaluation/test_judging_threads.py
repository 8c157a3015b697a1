"""Threads that the judge computes on, and that its numbers do not hang on them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from genforge.contracts import ImageShape
from genforge.evaluation.extractor import Features
from genforge.evaluation.measures import frechet
from genforge.evaluation.reference import Reference
from genforge.evaluation.statistics import Statistic
from genforge.evaluation.threads import SHARED_FROM, side_by_side

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2, "blas"):
        yield
    torch.set_num_threads(before)


def blas() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


class Watched(Statistic):
    name, lower_is_better = "watched", True

    def __init__(self) -> None:
        self.used: list[set[int]] = []

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        self.used.append(blas())
        return np.zeros(len(subsets))


def test_small_matrices_are_computed_on_one_thread_and_large_ones_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[set[int]] = []

    def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        used.append(blas())
        return np.zeros(features.shape[1]), np.eye(features.shape[1])

    monkeypatch.setattr(frechet, "moments", moments)
    statistic = Watched()
    for dimensions in (12, SHARED_FROM):
        features = np.zeros((20, dimensions), np.float32)
        Reference.of(features)
        statistic.of(Features(features, None))
    assert used == statistic.used == [{1}, {2}]
    assert blas() == {2}


def test_items_are_in_hand_at_the_same_time_each_on_one_thread_and_come_back_in_order() -> None:
    meeting = Barrier(2, timeout=60)

    def met(item: int) -> tuple[int, int, set[int]]:
        meeting.wait()  # comes back only when two are in hand
        return item, torch.get_num_threads(), blas()

    with side_by_side() as mapped:
        found = list(mapped(met, range(4)))
    assert found == [(item, 1, {1}) for item in range(4)]
    assert (torch.get_num_threads(), blas()) == (2, {2})


def test_after_a_failure_threads_are_given_back_and_what_waits_is_dropped() -> None:
    begun: list[int] = []

    def broken(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"), side_by_side() as mapped:
        next(mapped(broken, range(1000)))
    assert len(begun) < 1000
    assert (torch.get_num_threads(), blas()) == (2, {2})
    with side_by_side() as mapped:
        assert list(mapped(abs, [-1])) == [1]


def test_numbers_are_the_same_on_any_number_of_threads(judge_of: Make, classifier: Make, images_of: Make) -> None:
    shape = ImageShape(1, 8, 8)
    judge, generated = judge_of(classifier(shape), images_of(300, shape)), images_of(100, shape, seed=1)
    judge.batch_size = 20
    several = judge.score(generated)
    torch.set_num_threads(1)
    assert judge.score(generated) == several


LATE = """
import sys
import numpy as np, torch
from threadpoolctl import threadpool_info
from genforge.evaluation.threads import blas_threads
def blas():
    return {each["filepath"]: each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
with blas_threads(4):
    before = blas()
import scipy.linalg
with blas_threads(4):
    after = blas()
print(len(before), len(after), *{*before.values(), *after.values()})
"""


def test_a_library_that_is_loaded_later_is_limited_too() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
                          capture_output=True, text=True, check=True)  # fmt: skip
    before, after, *threads = map(int, done.stdout.split())
    assert before < after  # SciPy brings a BLAS of its own
    assert threads == [1]
