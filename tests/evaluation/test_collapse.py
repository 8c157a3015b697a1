"""A collapse is told from twins and classes, and what has collapsed has no place on the leaderboard."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from genforge.evaluation.collapse import Variety
from genforge.evaluation.leaderboard import build, markdown, render
from tests.evaluation.test_leaderboard import RESULTS, result

LIMITS = {"duplicates": 0.25, "classes": 0.2}


@pytest.mark.parametrize(
    ("variety", "words"),
    [
        (Variety(0.04, 10, 10), ""),
        (Variety(0.3, 10, 10), "30% of its images are there twice"),
        (Variety(0.0, 2, 10), "it reaches 2 of 10 classes"),
        (Variety(0.0, 3, 10), ""),
        (Variety(0.0, 1, 2), "it reaches 1 of 2 classes"),
        (Variety(0.0, 1, 1), ""),
        (Variety(1.0, 1, 10), "100% of its images are there twice and it reaches 1 of 10 classes"),
        (Variety(0.0), ""),
        (Variety(0.9), "90% of its images are there twice"),
    ],
)
def test_what_counts_as_collapse(variety: Variety, words: str) -> None:
    assert variety.collapse(**LIMITS) == words


def test_variety_is_the_mean_over_seeds() -> None:
    found = [{"duplicates": 0.1, "classes": 9.0}, {"duplicates": 0.3, "classes": 10.0}]
    assert Variety.of(found, 10) == Variety(0.2, 9.5, 10)
    assert Variety.of(found, 10).mode_coverage == 0.95
    assert Variety.of(found, None).to_json()["mode_coverage"] is None


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
