"""Charts are PNGs in both themes, the same bytes for the same values, and take what a run can give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genforge.report import figures
from genforge.report.figures import DARK, LIGHT, Mark, Theme

MODEL, BASELINE = Mark("gan", 0, (12.0, 13.0, 12.5)), Mark("box", None, (300.0, 301.0, 299.0))
CHARTS: dict[str, Callable[[Path, Theme], None]] = {
    "bars": lambda path, theme: figures.bars(path, [MODEL, BASELINE], 4.0, "FID", theme),
    "bars without a floor, some below zero": lambda path, theme: figures.bars(
        path, [Mark("gan", 0, (-0.001, 0.002, 0.0))], None, "KID", theme
    ),
    "precision and recall": lambda path, theme: figures.precision_recall(
        path, [(Mark("gan", 0, (0.8, 0.9)), Mark("gan", 0, (0.4, 0.5)))], (0.9, 0.9), theme
    ),
    "curves, one of a single point": lambda path, theme: figures.curves(
        path, {"loss": [(1, 2.0), (2, 1.0)], "late": [(2, 3.0)], "third": [(1, 0.0)], "fourth": [(1, 1e9)]}, 7, theme
    ),
    "history": lambda path, theme: figures.search_history(path, {0: 3.0, 2: 900.0}, {1: 5.0}, "lower", "FID", theme),
    "history without a complete trial": lambda path, theme: figures.search_history(
        path, {}, {1: 5.0}, "higher", "IS", theme
    ),
    "importances": lambda path, theme: figures.importances(
        path, {"training.optimizer.learning_rate": 1.0, "b": 0.0}, theme
    ),
    "classes": lambda path, theme: figures.class_balance(
        path, {"train": {"a": 3, "b": 0}, "test": {"a": 1, "b": 1}}, theme
    ),
    "many classes": lambda path, theme: figures.class_balance(
        path, {"train": {f"class {i}": i for i in range(200)}}, theme
    ),
    "names that are no formulas": lambda path, theme: figures.bars(
        path, [Mark("$\\frac{", 0, (1.0, 2.0))], 0.5, "$x", theme
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_picture_on_the_page_s_own_colour(tmp_path: Path, name: str) -> None:
    for theme in (LIGHT, DARK):
        path = tmp_path / f"{theme.name}.png"
        CHARTS[name](path, theme)
        picture = np.asarray(Image.open(path).convert("RGB"))
        paper = tuple(int(theme.paper[i : i + 2], 16) for i in (1, 3, 5))
        assert tuple(picture[0, 0]) == paper
        assert (picture != paper).any()
        assert 200 < picture.shape[0] < 1500 and 300 < picture.shape[1] < 1500


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        CHARTS["bars"](tmp_path / name, LIGHT)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_mark_s_mean_is_of_its_values() -> None:
    assert MODEL.mean == pytest.approx(12.5)
