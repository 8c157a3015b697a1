"""What the page says in words."""

from __future__ import annotations

from typing import Any

import pytest

from genforge.report.page import headline, number, seconds, standing


def row(name: str, role: str, fid: float) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "metrics": {"fid": {"mean": fid, "low": fid - 0.5, "high": fid + 0.5, "values": [fid]}},
    }


def board(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"metric": "fid", "rows": list(rows)}


FLOOR, GAN, VAE, BOX = (
    row("floor", "floor", 4.0),
    row("gan", "model", 9.0),
    row("vae", "model", 20.0),
    row("box", "ceiling", 300.0),
)


def test_the_leader_stands_between_floor_and_ceiling() -> None:
    said = board(FLOOR, GAN, VAE, BOX)
    assert headline(said) == "gan leads 2 models"
    assert standing(said) == (
        "Its FID is 9.00 ± 0.50 (lower is better); held-out real images, the floor, have 4.00 ± 0.50; "
        "the best baseline, box, has 300.00 ± 0.50."
    )


def test_a_leader_worse_than_a_baseline_is_told() -> None:
    assert standing(board(FLOOR, row("box", "ceiling", 8.0), GAN)).endswith("which the leader does not beat.")


def test_a_board_of_one_model_and_of_none() -> None:
    assert headline(board(FLOOR, GAN)) == "gan stands alone"
    assert headline(board(FLOOR, BOX)) == "No model yet, only baselines"
    assert standing(board(FLOOR, BOX)) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), ("1234", "1,234"), (0.00012345678, "0.0001235"), ("0.25", "0.25"), (12345.6, "12,346"),
     ("velocity", "velocity"), (True, "True"), (None, "None"), ("", "")],
)  # fmt: skip
def test_numbers_are_shown_as_people_read_them(value: Any, text: str) -> None:
    assert number(value) == text


def test_durations_have_their_own_unit() -> None:
    assert [seconds(value) for value in (0.25, 42.4, 600.0, 7200.0)] == ["0.2 s", "42 s", "10 min", "2.0 h"]
