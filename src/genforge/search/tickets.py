"""The trials of a plan as tickets in an Optuna study: exactly as many as asked, each finished once.

All tickets are put into the study as waiting trials before any worker starts; a worker claims one by the storage's own
compare-and-set, and creates none. So the count is right with any number of workers, on a journal file or on a database
shared by many machines. What a suggestion is depends on the seed, the ticket's number and the finished trials, and not
on which worker asks: with one worker a search is reproducible, also when it was interrupted.

A ticket may take several attempts (Optuna trials): a dead worker's attempt is marked failed, and the ticket waits again
with the same settings, the reports it had made, and the same folder, where its checkpoints are.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from genforge.catalog import Dimension
from genforge.randomness import derive
from genforge.search.journal import KernelLock
from genforge.search.plan import Plan, Pruned, Row, State, Value
from genforge.settings import UserError

STORAGE_VARIABLE = "GENFORGE_OPTUNA_STORAGE"
MOST_DEATHS = 5  # deaths of one trial's workers in a row without a new report: then the trial itself is to blame
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Trial:
    """What an objective gets: a number from 0, settings to try, and a folder for checkpoints that outlives a worker."""

    def __init__(self, number: int, folder: Path, trial: optuna.Trial, space: dict[str, Dimension]) -> None:
        self.number = number
        self.folder = folder
        self.settings: dict[str, Value] = {key: _suggest(trial, key, dimension) for key, dimension in space.items()}
        self._trial = trial

    def report(self, step: int, value: float) -> None:
        """Tell an intermediate value.

        Raises:
            Pruned: the trial does worse than half of the others did at this step.
            FloatingPointError: the value is not finite.
        """
        if not math.isfinite(value):
            raise FloatingPointError(f"the value at step {step} is {value}")
        self._trial.report(value, step)
        if self.number > 0 and self._trial.should_prune():
            raise Pruned(f"worse than the median of the other trials at step {step}")


class Tickets:
    """The study of one plan, in its folder or in the storage that `GENFORGE_OPTUNA_STORAGE` names."""

    def __init__(self, plan: Plan, folder: Path, *, create: bool = False) -> None:
        """
        Args:
            plan: the search.
            folder: its state on this machine: the journal, trials' folders, workers' logs.
            create: make the study when there is none. The supervisor alone does, before any worker starts: workers that
                start together on an empty database would race.
        """
        _silence_optuna()
        self.plan, self.folder = plan, folder
        self._storage = _open_storage(folder)
        direction: Literal["minimize", "maximize"] = "minimize" if plan.better == "lower" else "maximize"
        # The folder's name is the digest of the search's inputs: on a shared database other inputs are another study.
        name = f"{plan.name}/{folder.name}"
        pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=plan.warmup)
        if create:
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
            )
        else:
            self._study = optuna.load_study(storage=self._storage, study_name=name, pruner=pruner)
        self._study_id = self._storage.get_study_id_from_name(name)

    # Claiming and finishing: the workers' part.

    def claim(self, worker: str) -> Trial | None:
        """The next waiting trial, now running in the name of `worker`; None when nothing waits."""
        waiting = [trial for trial in self._latest().values() if trial.state == TrialState.WAITING]
        for attempt in sorted(waiting, key=_ticket):
            if self._take(attempt):
                number, trial_id = _ticket(attempt), self._id(attempt)
                self._storage.set_trial_user_attr(trial_id, "worker", worker)
                self._study.sampler = self._sampler(number)
                trial = optuna.Trial(self._study, trial_id)
                return Trial(number, self.folder / f"trial-{number}", trial, self.plan.space)
        return None

    def complete(self, trial: Trial, value: float) -> None:
        """The trial ran to its end. A value that is not finite makes it a failed one, with that as its reason."""
        if math.isfinite(value):
            self._study.tell(trial._trial, value)
        else:
            self.fail(trial, f"the value is {value}")

    def prune(self, trial: Trial) -> None:
        self._study.tell(trial._trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """Optuna keeps no reason, so it stands in the trial's attributes."""
        trial._trial.set_user_attr("reason", reason)
        self._study.tell(trial._trial, state=TrialState.FAIL)

    # Filling and reaping: the supervisor's part.

    def fill(self) -> None:
        """Make every ticket that has no attempt, or whose last one was lost with its worker, wait for a worker."""
        latest = self._latest()
        for number in range(self.plan.trials):
            last = latest.get(number)
            if last is None:
                self._enqueue({"ticket": number}, dict(self.plan.defaults) if number == 0 else {}, {})
            elif last.state == TrialState.FAIL and last.user_attrs.get("lost"):
                carried = {
                    "ticket": number,
                    "deaths": last.user_attrs["deaths"],
                    "reports_before": len(last.intermediate_values),
                    "seconds_before": _seconds(last),
                }
                self._enqueue(carried, last.params, last.intermediate_values)

    def reap(self, is_dead: Callable[[str | None], bool]) -> int:
        """Fail the running attempts whose worker is dead, and make their tickets wait again. Returns how many.

        Args:
            is_dead: of a worker's name, or of None: a trial that was claimed and not yet signed.
        """
        lost = 0
        for attempt in self._latest().values():
            if attempt.state == TrialState.RUNNING and is_dead(attempt.user_attrs.get("worker")):
                self._lose(attempt)
                lost += 1
        self.fill()
        return lost

    def count(self) -> dict[str, int]:
        """Tickets by state: `waiting`, `running`, `finished`. They sum to the number asked for, once filled."""
        states = [trial.state for trial in self._latest().values()]
        waiting, running = states.count(TrialState.WAITING), states.count(TrialState.RUNNING)
        return {"waiting": waiting, "running": running, "finished": len(states) - waiting - running}

    # Results.

    def rows(self) -> list[Row]:
        """Finished trials by number."""
        return [_row(number, last) for number, last in sorted(self._latest().items()) if last.state in _STATES]

    def importances(self) -> tuple[dict[str, float], str]:
        """Share of each setting by PED-ANOVA (Watanabe et al. 2023, "PED-ANOVA: efficiently quantifying hyperparameter
        importance in arbitrary subspaces"), largest first; and why there are none."""
        values = [row.value for row in self.rows() if row.state == "complete"]
        if len(values) < 2:
            return {}, f"importance needs at least two complete trials; there are {len(values)}"
        if len(set(values)) == 1:
            return {}, "importance cannot be told: all complete trials have the same value"
        # The method compares the best trials with all of them, and wants about five of the best; half when few.
        quantile = min(0.5, max(0.1, 5 / len(values)))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of few trials; the page says how many there were
            shares = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        if not all(math.isfinite(share) for share in shares.values()) or sum(shares.values()) <= 0:
            return {}, "importance cannot be told: no setting sets the better trials apart"
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))), ""

    # Between this file and Optuna.

    def _latest(self) -> dict[int, FrozenTrial]:
        """The last attempt of each ticket that the plan asks for (a study made for more trials may hold more)."""
        trials = self._study.get_trials(deepcopy=False)
        latest = {_ticket(trial): trial for trial in sorted(trials, key=lambda trial: trial.number)}
        return {number: trial for number, trial in latest.items() if number < self.plan.trials}

    def _id(self, attempt: FrozenTrial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, attempt.number)

    def _take(self, attempt: FrozenTrial) -> bool:
        try:
            return self._storage.set_trial_state_values(self._id(attempt), TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False  # another worker took it and has finished it already

    def _enqueue(self, attributes: dict[str, Any], settings: dict[str, Any], reports: dict[int, float]) -> None:
        """As `Study.enqueue_trial` does, with the reports made so far."""
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                system_attrs={"fixed_params": settings},
                user_attrs=attributes,
                intermediate_values=reports,
            )
        )

    def _lose(self, attempt: FrozenTrial) -> None:
        trial_id, attributes = self._id(attempt), attempt.user_attrs
        progressed = len(attempt.intermediate_values) > attributes.get("reports_before", 0)
        deaths = 1 if progressed else attributes.get("deaths", 0) + 1
        reason = f"its worker was killed {deaths} times in a row"
        if deaths < MOST_DEATHS:
            self._storage.set_trial_user_attr(trial_id, "deaths", deaths)
            self._storage.set_trial_user_attr(trial_id, "lost", True)
            reason = "its worker was killed; another attempt took it up"
        self._storage.set_trial_user_attr(trial_id, "reason", reason)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Multivariate TPE with constant liar (Optuna's default), seeded by the ticket and not by who holds it."""
        startup = max(2, min(10, self.plan.trials // 3))  # few trials leave no room for the usual ten random ones
        seed = derive(self.plan.seed, "search", self.plan.name, number) % 2**32
        return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)


def _open_storage(folder: Path) -> BaseStorage:
    url = os.environ.get(STORAGE_VARIABLE)
    if not url:
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / "journal.log"
        lock = cast(Any, KernelLock(journal))  # Optuna does not export the class of locks
        return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except Exception as error:
        # The URL may hold a password, and so may the driver's own message: neither is repeated.
        raise UserError(
            f"{STORAGE_VARIABLE}: cannot open this storage ({type(error).__name__}); it should be an SQLAlchemy URL of "
            f"a reachable server, such as postgresql+psycopg2://user:password@host/database, or unset for a journal"
        ) from error


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Value:
    if dimension.choices is not None:
        return cast(Value, trial.suggest_categorical(key, list(dimension.choices)))
    low, high = dimension.low, dimension.high
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=dimension.log)
    assert low is not None and high is not None
    return trial.suggest_float(key, low, high, log=dimension.log)


def _ticket(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["ticket"])


def _seconds(trial: FrozenTrial) -> float:
    before = trial.user_attrs.get("seconds_before", 0.0)
    return before + (trial.duration.total_seconds() if trial.duration is not None else 0.0)


def _row(number: int, trial: FrozenTrial) -> Row:
    return Row(
        number=number,
        state=_STATES[trial.state],
        value=trial.value,
        settings=dict(trial.params),
        seconds=_seconds(trial),
        reason=str(trial.user_attrs.get("reason", "")) if trial.state == TrialState.FAIL else "",
        reports=dict(sorted(trial.intermediate_values.items())),
    )


def _silence_optuna() -> None:
    """It tells every trial on standard error; the supervisor's bar does that."""
    optuna.logging.set_verbosity(logging.WARNING)
