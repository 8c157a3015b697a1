from __future__ import annotations

from inspect import signature

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
        ("density", "higher", "maximize"),
        ("coverage", "higher", "maximize"),
        ("mind", "lower", "minimize"),
        ("classes", "higher", "maximize"),
        ("duplicates", "lower", "minimize"),
        ("feature_diversity", "higher", "maximize"),
        ("path_length", "lower", "minimize"),
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


def test_what_names_classes_is_needed_by_what_counts_them() -> None:
    assert [name for name, item in METRICS.items() if item.needs == "classes"] == ["is", "classes"]


@pytest.mark.parametrize("name", METRICS)
def test_settings_are_the_keywords_of_the_function(name: str) -> None:
    """So what the protocol tells of a number is what the number was computed with."""
    keywords = list(signature(METRICS[name].compute).parameters)[1:]
    assert keywords == list(METRICS[name].settings(500, 1000))


def test_tables_for_people_are_no_wider_than_a_page() -> None:
    main = [name for name, item in METRICS.items() if item.main]
    assert main == ["fid", "kid", "is", "precision", "recall", "modes"]  # the last of points alone


@pytest.mark.parametrize(
    "value, shown", [(12.345, "12.35"), (0.02, "0.02"), (0.0, "0.00"), (0.00123, "0.0012"), (-0.00004, "-0.000040")]
)
def test_small_numbers_do_not_become_zero(value: float, shown: str) -> None:
    assert METRICS["fid"].show(value) == shown


def test_an_unknown_metric_is_told_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"no metric is called 'recal'; did you mean `recall`\?"):
        metric("recal")
