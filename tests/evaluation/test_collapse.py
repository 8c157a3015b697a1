"""A collapse is told from twins and classes, and what has collapsed has no place on the leaderboard."""

from __future__ import annotations

import io
from dataclasses import astuple

import numpy as np
import pytest
from rich.console import Console

from genforge.evaluation.collapse import Variety, pixel_diversity
from genforge.evaluation.leaderboard import build, markdown, render
from tests.evaluation.test_leaderboard import RESULTS, result

LIMITS = {"duplicates": 0.25, "classes": 0.2, "spread": 0.4}


def variety(duplicates: float, classes: float | None = None, of_classes: int | None = None, **spread: float) -> Variety:
    """As varied as the data but for what is said."""
    return Variety(duplicates, **{"features": 1.0, "pixels": 1.0, **spread}, classes=classes, of_classes=of_classes)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (variety(0.04, 10, 10), ""),
        (variety(0.3, 10, 10), "30% of its images are there twice"),
        (variety(0.0, 2, 10), "it reaches 2 of 10 classes"),
        (variety(0.0, 3, 10), ""),
        (variety(0.0, 1, 2), "it reaches 1 of 2 classes"),
        (variety(0.0, 1, 1), ""),
        (variety(1.0, 1, 10), "100% of its images are there twice and it reaches 1 of 10 classes"),
        (variety(0.0), ""),
        (variety(0.9), "90% of its images are there twice"),
        (
            variety(0.0, 7, 10, features=0.27, pixels=0.15),
            "its images are variations of one (two of them differ by 27% of what two of the data's do in features, and "
            "by 15% in pixels)",
        ),
        (variety(0.0, 10, 10, features=0.25, pixels=1.06), ""),  # noise, which is one thing to a classifier
        (variety(0.0, 10, 10, features=0.62, pixels=0.14), ""),  # pale images of many shapes
    ],
)
def test_what_counts_as_collapse(found: Variety, words: str) -> None:
    assert found.collapse(**LIMITS) == words


def test_variety_is_the_mean_over_seeds() -> None:
    found = [
        {"duplicates": 0.1, "features": 0.8, "pixels": 0.5, "classes": 9.0},
        {"duplicates": 0.3, "features": 0.6, "pixels": 0.7, "classes": 10.0},
    ]
    assert astuple(Variety.of(found, 10)) == pytest.approx((0.2, 0.7, 0.6, 9.5, 10))
    assert Variety.of(found, 10).mode_coverage == 0.95
    assert Variety.of(found, None).to_json()["mode_coverage"] is None


def test_pixel_diversity_is_the_mean_over_all_pairs() -> None:
    images = np.random.RandomState(0).randint(0, 256, (30, 4, 4, 3)).astype(np.uint8)
    rows = images.reshape(30, -1).astype(np.float64)
    pairs = [((a - b) ** 2).sum() for number, a in enumerate(rows) for b in rows[:number]]
    assert pixel_diversity(images) == pytest.approx(np.mean(pairs))
    assert pixel_diversity(np.repeat(images[:1], 1500, axis=0)) == pytest.approx(0.0, abs=1e-6)


def test_what_has_collapsed_is_shown_without_a_rank_and_with_the_reason() -> None:
    frozen = result("frozen", "GAN", 3.0) | {"collapsed": "it reaches 1 of 10 classes"}
    board = build([*RESULTS, frozen], "fid")
    roles = {row["name"]: (row["role"], row["rank"]) for row in board["rows"]}
    assert roles["frozen"] == ("collapsed", None)
    assert roles["gan"] == ("model", 1)  # though its FID is worse
    assert "- frozen has collapsed: it reaches 1 of 10 classes" in markdown(board)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(board))
    assert "frozen has collapsed" in console.export_text()
