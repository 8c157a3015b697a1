from __future__ import annotations

import pytest

from genforge.evaluation.metrics import METRICS, metric
from genforge.settings import UserError


@pytest.mark.parametrize(
    ("name", "better", "direction"),
    [
        ("fid", "lower", "minimize"),
        ("kid", "lower", "minimize"),
        ("is", "higher", "maximize"),
        ("precision", "higher", "maximize"),
        ("recall", "higher", "maximize"),
    ],
)
def test_direction_is_a_property_of_the_metric(name: str, better: str, direction: str) -> None:
    assert (METRICS[name].better, METRICS[name].direction) == (better, direction)


@pytest.mark.parametrize("name", METRICS)
def test_sorting_by_key_puts_the_better_value_first(name: str) -> None:
    first, second = sorted([1.0, 2.0], key=METRICS[name].key)
    assert METRICS[name].is_better(first, than=second)
    assert not METRICS[name].is_better(second, than=first)
    assert not METRICS[name].is_better(first, than=first)


def test_only_the_inception_score_needs_classes() -> None:
    assert [name for name, item in METRICS.items() if item.needs_logits] == ["is"]


def test_an_unknown_metric_is_told_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"no metric is called 'recal'; did you mean `recall`\?"):
        metric("recal")
