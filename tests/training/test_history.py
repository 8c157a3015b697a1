"""A run's story is told whole, and each part of it once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch

from genforge.training.history import History


def images(value: int) -> np.ndarray:
    return np.full((2, 8, 8, 1), value, np.uint8)


def through_a_checkpoint(history: History, into: History) -> History:
    content = safetensors.torch.save(history.tensors())
    into.restore(history.columns, safetensors.torch.load(content))
    return into


def test_values_and_images_come_back_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    first = History()
    first.add(4, {"loss": 0.1 + 0.2, "b": -0.0})
    first.add(8, {"extra": 1e-300, "loss": 2.0})
    first.see(4, images(1))
    first.see(8, images(2))
    second = through_a_checkpoint(first, History())
    assert second.rows == first.rows == {4: {"loss": 0.1 + 0.2, "b": -0.0}, 8: {"loss": 2.0, "extra": 1e-300}}
    assert list(second.images) == [4, 8]
    assert all(np.array_equal(second.images[4 * turn], images(turn)) for turn in (1, 2))
    first.write_csv(tmp_path / "first.csv")
    second.write_csv(tmp_path / "second.csv")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
    assert through_a_checkpoint(History(), History()).rows == {}


def test_curves_have_a_column_a_value(tmp_path: Path) -> None:
    history = History()
    history.add(5, {"b": 0.25, "a": 1.0}, passing={"seconds": 3.0})
    history.add(10, {"b": 0.5})
    history.write_csv(tmp_path / "curves.csv")
    assert (tmp_path / "curves.csv").read_text() == "step,b,a\n5,0.25,1.0\n10,0.5,\n"


def test_a_new_listener_hears_the_whole_story() -> None:
    history = History()
    history.add(1, {"loss": 1.0})
    history.see(1, images(1))
    heard: list[object] = []
    listening = History(lambda step, values: heard.append((step, values)), lambda step, seen: heard.append(step))
    through_a_checkpoint(history, listening)
    listening.add(2, {"loss": 2.0}, passing={"speed": 9.0})
    assert heard == [(1, {"loss": 1.0}), 1, (2, {"loss": 2.0, "speed": 9.0})]


def test_a_fall_back_replaces_what_was_kept_and_tells_no_step_twice() -> None:
    told: list[tuple[int, dict[str, float]]] = []
    shown: list[int] = []
    history = History(lambda step, values: told.append((step, values)), lambda step, seen: shown.append(step))
    history.add(1, {"loss": 1.0})
    checkpoint, columns = safetensors.torch.save(history.tensors()), history.columns
    history.add(2, {"loss": 50.0})
    history.see(2, images(50))

    history.restore(columns, safetensors.torch.load(checkpoint))
    assert history.rows == {1: {"loss": 1.0}} and history.images == {}
    for step in (2, 3):
        history.add(step, {"loss": float(step)})
        history.see(step, images(step))
    assert history.rows == {1: {"loss": 1.0}, 2: {"loss": 2.0}, 3: {"loss": 3.0}}
    assert list(history.images) == [2, 3] and all(np.array_equal(history.images[step], images(step)) for step in (2, 3))
    assert told == [(1, {"loss": 1.0}), (2, {"loss": 50.0}), (3, {"loss": 3.0})]
    assert shown == [2, 3]
