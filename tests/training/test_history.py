"""A run's story is told whole, and each part of it once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genforge.training.history import History


def test_values_and_images_survive_and_are_told_once(tmp_path: Path) -> None:
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    first = History(tmp_path / "run")
    assert first.add(4, {"loss": 0.1 + 0.2}) and first.add(8, {"loss": 2.0, "extra": 1.0})
    assert first.see(8, images + 1) and first.see(4, images)

    second = History(tmp_path / "run")
    assert second.rows == {4: {"loss": 0.1 + 0.2}, 8: {"loss": 2.0, "extra": 1.0}}
    assert not second.add(8, {"loss": 9.0}) and not second.see(8, images)
    assert second.rows[8]["loss"] == 2.0
    assert np.array_equal(second.film(), np.concatenate([images, images + 1])), "in the order of steps"


def test_a_line_that_was_cut_off_costs_that_line_alone(tmp_path: Path) -> None:
    History(tmp_path).add(1, {"loss": 1.0})
    with (tmp_path / "values.jsonl").open("a") as file:
        file.write('\n[2, {"loss": 0.')
    History(tmp_path).add(3, {"loss": 3.0})
    assert History(tmp_path).rows == {1: {"loss": 1.0}, 3: {"loss": 3.0}}


def test_curves_have_a_column_a_value(tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    history.add(10, {"b": 0.5})
    history.add(5, {"a": 1.0, "b": 0.25})
    history.write_csv(tmp_path / "curves.csv")
    assert (tmp_path / "curves.csv").read_text() == "step,b,a\n5,0.25,1.0\n10,0.5,\n"
