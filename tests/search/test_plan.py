"""A plan refuses a space in which the first trial could not be the recipe's own settings, and knows the best row."""

from __future__ import annotations

from typing import Any

import pytest

from genforge.dimension import Dimension
from genforge.search.plan import Plan, Row
from genforge.settings import UserError


def plan(dimension: dict[str, Any], default: Any, better: str = "lower") -> Plan:
    return Plan.model_validate(
        {
            "name": "toy",
            "space": {"rate": Dimension(**dimension)},
            "defaults": {"rate": default},
            "objective": "toy_search:bowl",
            "better": better,
            "trials": 3,
            "seed": 0,
        }
    )


@pytest.mark.parametrize(
    ("dimension", "default"),
    [({"low": 0.1, "high": 1.0, "log": True}, 0.1), ({"low": 1, "high": 8}, 8), ({"choices": ("a", "b")}, "b")],
)
def test_a_default_inside_its_dimension_passes(dimension: dict[str, Any], default: Any) -> None:
    plan(dimension, default).check()


@pytest.mark.parametrize(
    ("dimension", "default", "rule"),
    [
        ({"low": 0.1, "high": 1.0}, 2.0, "a number from 0.1 to 1.0, which the recipe's own value 2.0 is not; widen"),
        ({"low": 0.1, "high": 1.0}, "adam", "a number from 0.1 to 1.0, which the recipe's own value 'adam' is not"),
        ({"low": 1, "high": 8}, 2.5, "a whole number from 1 to 8, which the recipe's own value 2.5 is not"),
        ({"choices": ("a", "b")}, "c", "one of 'a', 'b', which the recipe's own value 'c' is not"),
    ],
)
def test_a_default_outside_is_told_with_a_remedy(dimension: dict[str, Any], default: Any, rule: str) -> None:
    with pytest.raises(UserError, match=r"recipes\.toy\.search\.space\.rate") as caught:
        plan(dimension, default).check()
    assert rule in str(caught.value)


def rows(*values: float | None) -> list[Row]:
    return [Row(n, "pruned" if value is None else "complete", value, {}, 1.0) for n, value in enumerate(values)]


def test_best_follows_the_direction_and_prefers_the_earliest() -> None:
    space = {"low": 0.0, "high": 1.0}
    assert plan(space, 0.5).best(rows(2.0, None, 1.0, 1.0)).number == 2  # type: ignore[union-attr]
    assert plan(space, 0.5, "higher").best(rows(2.0, None, 1.0, 2.0)).number == 0  # type: ignore[union-attr]
    assert plan(space, 0.5).best(rows(None, None)) is None
