"""What a search tries next, and what it believes of trials that did not come to their end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from toy_search import DEFAULTS, toy

from genforge.search.suggestion import costs, suggest

DISTRIBUTIONS = {"rate": FloatDistribution(0.001, 1.0, log=True), "width": IntDistribution(4, 16)}


def trial(rate: float, value: float | None, reports: dict[int, float] | None = None) -> FrozenTrial:
    """Complete where it has a value, else pruned where it has reports, else failed."""
    ended = TrialState.PRUNED if reports else TrialState.FAIL
    return create_trial(
        state=TrialState.COMPLETE if value is not None else ended,
        params={"rate": rate, "width": 8},
        distributions=dict(DISTRIBUTIONS),
        value=value,
        intermediate_values=reports,
    )


def test_a_pruned_trial_is_taken_to_gain_as_much_as_the_others_and_a_failed_one_for_the_worst() -> None:
    complete = [trial(0.1, 4.0, {1: 40.0}), trial(0.2, 4.0, {1: 20.0}), trial(0.3, 2.0, {1: 20.0})]
    found = costs([*complete, trial(0.4, None, {1: 80.0}), trial(0.7, None)], "lower")
    assert found == pytest.approx([math.log(value) for value in (4.0, 4.0, 2.0, 8.0, 8.0)])  # to a tenth in the median


def test_a_running_trial_is_foreseen_from_its_report_once_others_show_what_follows() -> None:
    running = create_trial(
        state=TrialState.RUNNING,
        params={"rate": 0.4, "width": 8},
        distributions=dict(DISTRIBUTIONS),
        intermediate_values={1: 30.0},
    )
    assert costs([trial(0.1, 4.0, {1: 40.0}), running], "lower")[1] == pytest.approx(math.log(3.0))
    assert costs([trial(0.1, 4.0, {2: 40.0}), running, trial(0.7, None)], "lower")[1] is None


def test_values_that_are_not_all_positive_stay_as_they_are() -> None:
    found = costs([trial(0.1, 0.5, {1: 0.7}), trial(0.2, -0.1, {1: 0.2}), trial(0.3, None, {1: 0.9})], "lower")
    assert found == pytest.approx([0.5, -0.1, 0.65])


def test_the_best_cost_least_where_higher_is_better() -> None:
    found = costs([trial(0.1, 4.0, {1: 1.0}), trial(0.2, 9.0, {1: 2.0}), trial(0.3, None, {1: 1.5})], "higher")
    assert found == pytest.approx([-4.0, -9.0, -6.5])


def test_settings_depend_on_values_and_on_what_runs(tmp_path: Path) -> None:
    plan = toy("bowl", tmp_path, trials=12).model_copy(update={"method": "gaussian-process"})
    rates, values = [0.9, 0.02, 0.3, 0.1, 0.6], [0.36, 0.08, 0.01, 0.04, 0.09]
    trials = [trial(rate, value) for rate, value in zip(rates, values, strict=True)]
    found = suggest(plan, trials, 7)
    assert suggest(plan, trials, 7) == found
    assert 0.1 < found["rate"] < 0.6  # between the second and the third best
    assert suggest(plan, [trial(rate, 1 - value) for rate, value in zip(rates, values, strict=True)], 7) != found
    running = create_trial(state=TrialState.RUNNING, params=found, distributions=dict(DISTRIBUTIONS))
    assert suggest(plan, [*trials, running], 7) != found


def test_settings_that_were_tried_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would have the same value. Here is a process that asks for the best corner whatever is known."""

    class Stubborn(optuna.samplers.GPSampler):
        def sample_relative(self, *arguments: Any) -> dict[str, Any]:
            return {"rate": 1.0, "width": 8}

    monkeypatch.setattr(optuna.samplers, "GPSampler", Stubborn)
    plan = toy("bowl", tmp_path, trials=24).model_copy(update={"method": "gaussian-process"})
    trials = [trial(rate, 1.0 / rate) for rate in (0.001, 0.01, 0.03, 0.1, 0.5)]
    assert suggest(plan, trials, 5) == {"rate": 1.0, "width": 8}
    found = [suggest(plan, [*trials, trial(1.0, 1.0)], number) for number in range(10, 13)]
    assert {"rate": 1.0, "width": 8} not in found and len({settings["rate"] for settings in found}) == 3


@pytest.mark.parametrize(("method", "wanted"), [("gaussian-process", 0.005), ("tpe", 0.005), ("random", 0.05)])
def test_so_near_to_the_bottom_of_a_bowl_come_24_trials(method: str, wanted: float, tmp_path: Path) -> None:
    """The median of three seeds; the recipe's own settings are at 0.38."""

    def best(seed: int) -> float:
        study, plan = optuna.create_study(), toy("bowl", tmp_path, trials=24)
        plan = plan.model_copy(update={"method": method, "seed": seed})
        study.enqueue_trial(DEFAULTS)
        for number in range(plan.trials):
            if number:
                study.enqueue_trial(suggest(plan, study.get_trials(deepcopy=False), number))
            asked = study.ask(dict(DISTRIBUTIONS))
            study.tell(asked, (asked.params["rate"] - 0.3) ** 2 + 0.01 * abs(asked.params["width"] - 8))
        return float(study.best_value)

    assert sorted(best(seed) for seed in range(3))[1] < wanted
