"""What a search tries next: at first what fills the space (`first_settings.py`), then what Optuna's samplers say when
they are asked of what is finished and what is running now.

They are asked of a study in memory, whose trials are the tickets. The stored one would not do: its `Study` keeps for
the sampler the trials that it saw at its first suggestion, so that all others would be random; and a ticket's second
attempt stands behind all tickets there, which changes what a sampler draws.

A Gaussian process believes in smooth functions with even noise. FID spans orders of magnitude and its noise grows with
it, so the process is shown logarithms; of trials that were pruned or still run, what they should come to; and failed
ones as bad as the worst. Workers begin together and end together: were running trials unknown, nearly all of them would
ask for their second trial before anything is known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Literal, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from genforge.dimension import Dimension
from genforge.quick_start import without_collecting
from genforge.randomness import derive
from genforge.search.first_settings import first_settings
from genforge.search.plan import Plan, Value

MOST_OF_A_PROCESS = 100  # trials; a Gaussian process takes a tenth of a second for twenty, and their number's cube


def load() -> None:
    """Import what a Gaussian process needs, before it is asked for anything."""
    with without_collecting():
        for package in ("scipy.optimize", "scipy.stats"):
            import_module(package)


def suggest(plan: Plan, trials: Iterable[FrozenTrial], number: int) -> dict[str, Value]:
    """Settings to try.

    Args:
        plan: the search.
        trials: the last attempt of each ticket, in any state, in the order of their numbers.
        number: of the trial that is to have them: who asks with the same trials gets the same settings.
    """
    begun = [trial for trial in trials if trial.params]
    believed = costs(begun, plan.better)
    startup = plan.startup
    seed = derive(plan.seed, "search", plan.name, number) % 2**32
    if plan.method != "random" and number < startup:
        of_hypercubes = derive(plan.seed, "search", plan.name, "first")
        first = first_settings(plan.space, plan.defaults, startup, of_hypercubes, plan.portfolio)
        if first[number] not in first[:number]:
            return first[number]
    parzen = optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)  # multivariate, with constant liar
    finite = [trial for trial in begun if trial.state != TrialState.FAIL]
    if plan.method == "random":
        return _asked(plan, optuna.samplers.RandomSampler(seed=seed), [], plan.better)
    if plan.method == "tpe" or sum(cost is not None for cost in believed) < startup or len(begun) > MOST_OF_A_PROCESS:
        return _asked(plan, parzen, finite, plan.better)
    shown = [
        trial
        if cost is None
        else optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=cost)
        for trial, cost in zip(begun, believed, strict=True)
    ]
    settings = _asked(plan, optuna.samplers.GPSampler(n_startup_trials=0, seed=seed), shown, "lower")
    # Where noise is large it asks for the same corner of the space again and again. Trials train from one seed, so that
    # the same settings have the same value: nothing is learnt by it.
    return _asked(plan, parzen, finite, plan.better) if any(settings == trial.params for trial in begun) else settings


def _asked(
    plan: Plan, sampler: optuna.samplers.BaseSampler, known: list[FrozenTrial], better: Literal["lower", "higher"]
) -> dict[str, Value]:
    study = optuna.create_study(direction="minimize" if better == "lower" else "maximize", sampler=sampler)
    study.add_trials(known)
    trial = study.ask()
    return {key: suggested(trial, key, dimension) for key, dimension in plan.space.items()}


def costs(trials: Sequence[FrozenTrial], better: Literal["lower", "higher"]) -> list[float | None]:
    """What a Gaussian process is to believe of trials that have begun, the lower the better.

    The logarithm of a complete trial's value where lower is better and all values are positive; else the value, with
    its sign turned where higher is better. Of one that was pruned or still runs that of its last report, and as much as
    complete ones gained after that step, in the median; None of a running one where nobody knows that gain. Of a failed
    one the worst of all others.
    """
    numbers = [number for trial in trials for number in (*(trial.values or ()), *_reports(trial).values())]
    logarithmic = better == "lower" and min(numbers, default=0.0) > 0.0
    sign = 1.0 if better == "lower" else -1.0
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]

    def cost(value: float | None) -> float:
        assert value is not None
        return math.log(value) if logarithmic else sign * value

    def expected(trial: FrozenTrial) -> float | None:
        if trial.state == TrialState.COMPLETE:
            return cost(trial.value)
        step = trial.last_step
        if trial.state == TrialState.FAIL or step is None:
            return None
        gains = [cost(peer.value) - cost(reports[step]) for peer in complete if step in (reports := _reports(peer))]
        if trial.state == TrialState.RUNNING and not gains:
            return None
        return cost(_reports(trial)[step]) + (statistics.median(gains) if gains else 0.0)

    found = [expected(trial) for trial in trials]
    worst = max((value for value in found if value is not None), default=0.0)
    return [
        worst if value is None and trial.state.is_finished() else value
        for trial, value in zip(trials, found, strict=True)
    ]


def _reports(trial: FrozenTrial) -> dict[int, float]:
    return trial.intermediate_values


def suggested(trial: optuna.Trial, key: str, dimension: Dimension) -> Value:
    """What the trial has, or now gets, for a setting."""
    if dimension.choices is not None:
        return cast(Value, trial.suggest_categorical(key, list(dimension.choices)))
    low, high = dimension.low, dimension.high
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=dimension.log)
    assert low is not None and high is not None
    return trial.suggest_float(key, low, high, log=dimension.log)
