"""While a run goes on, and no longer, it is told what the machine does."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from genforge.settings import UserError
from genforge.tracking.system_metrics import watched

SECONDS = 60.0  # to wait on a busy machine for what comes in milliseconds on a quiet one


def test_looks_are_numbered_and_end_with_the_block() -> None:
    looks: list[tuple[int, Mapping[str, float]]] = []
    enough = threading.Event()

    def tell(number: int, values: Mapping[str, float]) -> None:
        looks.append((number, values))
        if len(looks) == 3:
            enough.set()

    with watched(tell, seconds=0.001):
        assert enough.wait(SECONDS)
    told = len(looks)
    assert [number for number, _ in looks] == list(range(told))
    values = looks[-1][1]
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/process_memory_usage_megabytes"] < values["system/system_memory_usage_megabytes"]
    assert not [thread for thread in threading.enumerate() if thread.name == "system metrics"]


def test_a_full_disk_does_not_end_the_watching() -> None:
    looks, enough = [], threading.Event()

    def tell(number: int, values: Mapping[str, float]) -> None:
        looks.append(number)
        if number == 1:
            enough.set()
        raise UserError("the disk is full")

    with watched(tell, seconds=0.001):
        assert enough.wait(SECONDS)
    assert looks[:2] == [0, 1]


def test_a_short_run_has_none_and_its_error_passes() -> None:
    looks: list[int] = []
    with pytest.raises(ValueError, match="its own"), watched(lambda number, values: looks.append(number)):
        raise ValueError("its own")
    assert looks == []
