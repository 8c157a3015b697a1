"""While something large is imported nothing looks for garbage, and afterwards it is looked for as before."""

from __future__ import annotations

import gc
import weakref

import pytest

from genforge.quick_start import without_collecting


class Ring:
    def __init__(self) -> None:
        self.itself = self


def test_nothing_looks_for_garbage_within_and_all_is_as_before_afterwards() -> None:
    looks: list[str] = []

    def look(phase: str, info: dict[str, int]) -> None:
        looks.append(phase)

    gc.callbacks.append(look)
    try:
        with without_collecting():
            kept = [[number] for number in range(10 * gc.get_threshold()[0])]
            with without_collecting():
                pass
            assert not looks and not gc.isenabled()
        assert gc.isenabled() and kept
        kept = [[number] for number in range(10 * gc.get_threshold()[0])]
        assert looks
    finally:
        gc.callbacks.remove(look)


def test_what_becomes_garbage_later_is_found() -> None:
    with without_collecting():
        pass
    gone = weakref.ref(Ring())
    gc.collect()
    assert gone() is None


def test_who_collects_by_hand_goes_on_doing_so_also_after_an_import_that_fails() -> None:
    gc.disable()
    try:
        with pytest.raises(ImportError), without_collecting():
            raise ImportError
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(ImportError), without_collecting():
        raise ImportError
    assert gc.isenabled()
