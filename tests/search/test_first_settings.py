"""What a search tries before anything is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from toy_search import DEFAULTS, SPACE, toy

from genforge.dimension import Dimension
from genforge.search.first_settings import first_settings
from genforge.search.plan import Value
from genforge.search.suggestion import suggest

DIMENSIONS = {
    "rate": Dimension(low=1e-5, high=1e-1, log=True),
    "share": Dimension(low=0.0, high=1.0),
    "width": Dimension(low=4, high=256, log=True),
    "depth": Dimension(low=1, high=3),
    "size": Dimension(choices=(64, 128)),
    "norm": Dimension(choices=("batch", "group", "none", True)),
}


@pytest.mark.parametrize("key", DIMENSIONS)
def test_a_place_is_that_of_its_value(key: str) -> None:
    dimension = DIMENSIONS[key]
    for place in np.linspace(0.0, 0.999, 50):
        value = dimension.at(float(place))
        assert dimension.at(dimension.place(value)) == pytest.approx(value)
        if key in ("rate", "share"):
            assert dimension.place(value) == pytest.approx(place)


def test_what_a_setting_may_be() -> None:
    held = {"rate": 1e-5, "share": 1, "width": 256, "depth": 1, "size": 128, "norm": True}
    for key, dimension in DIMENSIONS.items():
        assert dimension.holds(held[key]), key
        assert not dimension.holds("nothing")
        for value in dimension.examples():
            assert dimension.holds(value)
    beyond = {"rate": 0.2, "share": -1e-9, "width": 8.0, "depth": True, "size": 128.0, "norm": 1}
    assert not any(DIMENSIONS[key].holds(value) for key, value in beyond.items())
    assert DIMENSIONS["norm"].rule() == "one of 'batch', 'group', 'none', True"
    assert DIMENSIONS["width"].rule() == "a whole number from 4 to 256"
    assert DIMENSIONS["share"].rule() == "a number from 0.0 to 1.0"


def test_places_are_even_over_the_scale() -> None:
    places = (np.arange(3000) + 0.5) / 3000
    assert DIMENSIONS["rate"].at(0.5) == pytest.approx(1e-3)
    assert DIMENSIONS["share"].at(0.25) == 0.25
    depths = [DIMENSIONS["depth"].at(place) for place in places]
    assert [depths.count(depth) for depth in (1, 2, 3)] == [1000, 1000, 1000]
    widths = [int(DIMENSIONS["width"].at(place)) for place in places]
    assert min(widths) == 4 and max(widths) == 256
    assert abs(sum(math.log(257 / 4) / 2 > math.log(width / 4) for width in widths) - 1500) < 60  # half of them small


@pytest.mark.parametrize("trials", [2, 3, 4, 7])
def test_every_part_of_every_range_is_tried_once_the_defaults_included(trials: int) -> None:
    space = {key: DIMENSIONS[key] for key in ("rate", "share", "width")}
    defaults = {"rate": 2e-4, "share": 1.0, "width": 64}
    found = first_settings(space, defaults, trials, seed=5)
    assert found[0] == defaults and len(found) == trials
    assert all(type(settings[key]) is type(defaults[key]) for settings in found for key in space)  # for YAML
    for key in ("rate", "share"):
        parts = sorted(min(int(space[key].place(settings[key]) * trials), trials - 1) for settings in found)
        assert parts == list(range(trials))
    assert first_settings(space, defaults, trials, seed=5) == found != first_settings(space, defaults, trials, seed=6)


def test_trials_lie_farther_apart_than_at_random() -> None:
    space = {key: DIMENSIONS[key] for key in ("rate", "share")}
    defaults = {"rate": 2e-4, "share": 0.5}

    def nearest(places: np.ndarray) -> float:
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
        return float(apart[~np.eye(len(places), dtype=bool)].min())

    found = [first_settings(space, defaults, 4, seed) for seed in range(40)]
    ours = [nearest(np.array([[space[key].place(row[key]) for key in space] for row in rows])) for rows in found]
    others = [nearest(np.random.default_rng(seed).random((4, 2))) for seed in range(40)]
    assert min(ours) > 0.3 > np.median(others)


def test_a_search_begins_with_them_whoever_asks(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=12)
    found = [suggest(plan, [], number) for number in range(4)]
    assert found[0] == DEFAULTS
    rates = sorted(int(SPACE["rate"].place(settings["rate"]) * 4) for settings in found)
    assert rates == [0, 1, 2, 3]
    assert suggest(plan.model_copy(update={"method": "gaussian-process"}), [], 2) == found[2]
    assert suggest(plan.model_copy(update={"method": "random"}), [], 2) != found[2]


PORTFOLIO: list[dict[str, Value]] = [{"rate": 0.01, "width": 15}, {"rate": 0.2}]


def test_the_portfolio_is_tried_after_the_defaults_and_the_rest_is_as_even_as_it_leaves_room_for() -> None:
    space, defaults = {key: DIMENSIONS[key] for key in ("rate", "share")}, {"rate": 2e-4, "share": 1.0}
    known = [defaults, {"rate": 0.02, "share": 0.1}, {"rate": 0.015, "share": 1.0}]
    found = first_settings(space, defaults, 6, 5, [{"rate": 0.02, "share": 0.1}, {"rate": 0.015}])
    assert found[:3] == known
    for key, shared in (("rate", 4), ("share", 5)):  # a part that two of the known ones share; of six
        parts = [min(int(space[key].place(settings[key]) * 6), 5) for settings in found]
        assert parts.count(shared) == 2
        assert len(set(parts)) == 5
    others = {tuple(first_settings(space, defaults, 6, seed, known[1:])[3].values()) for seed in range(5)}
    assert len(others) == 5
    assert first_settings(space, defaults, 2, 5, known[1:]) == known[:2], "no more than there is room for"
    assert first_settings(space, defaults, 3, 5, [defaults, *known[1:]]) == known, "the defaults once"


@pytest.mark.parametrize(("trials", "first"), [(2, 2), (4, 2), (6, 3), (12, 4), (48, 4)])
def test_half_of_the_trials_at_most_are_the_first_of_a_portfolio(trials: int, first: int, tmp_path: Path) -> None:
    known = [DEFAULTS, PORTFOLIO[0], {**DEFAULTS, **PORTFOLIO[1]}]
    plan = toy("bowl", tmp_path, trials=trials).model_copy(update={"portfolio": PORTFOLIO})
    assert [suggest(plan, [], number) for number in range(min(first, 3))] == known[: min(first, 3)]
    assert suggest(plan, [], first) not in known
    assert suggest(plan.model_copy(update={"method": "random"}), [], 1) not in known


def test_settings_that_come_twice_are_tried_once(tmp_path: Path) -> None:
    """Two choices for four trials: what the first ones have, the others leave to the sampler."""
    space, defaults = {**SPACE, "width": Dimension(choices=(4, 8))}, {"rate": 0.9, "width": 4}
    one = {"width": space["width"]}
    assert len({settings["width"] for settings in first_settings(one, {"width": 4}, 4, 0)}) == 2
    plan = toy("bowl", tmp_path, trials=12).model_copy(update={"space": space, "defaults": defaults})
    assert len({tuple(suggest(plan, [], number).values()) for number in range(4)}) == 4
