"""The trials of a plan as tickets in an Optuna study: exactly as many as asked, each finished once.

All tickets are put into the study as waiting trials before anyone works; a worker claims one by the storage's own
compare-and-set, and creates none. So the count is right with any number of workers, on a journal file or on a database
shared by many machines. What a suggestion is depends on the seed, the ticket's number and the finished trials, and not
on which worker asks: with one worker a search is reproducible, also when it was interrupted.

A ticket may take several attempts (Optuna trials): a dead worker's attempt is marked failed, and the ticket waits again
with the same settings, the reports it had made, and its checkpoints, where they are on a disk that the next worker
sees; else it starts afresh. The attempt is the fence as well: once failed, it can never be written again, so a worker
that was thought dead and is not finds its trial lost. Should two supervisors add the same attempt at once, the first of
the twins counts and the other one is never claimed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from genforge.processes import Identity
from genforge.search.lease import Watch
from genforge.search.plan import Lost, Plan, Pruned, Row, State, Value
from genforge.search.quick_import import SCIKIT_LEARN, without
from genforge.search.storage import Store
from genforge.search.suggestion import load, suggest, suggested

MOST_DEATHS = 5  # deaths of one trial's workers in a row without progress: then the trial itself is to blame
SECONDS_TO_ASK = 20.0  # a worker waits for another one that asks for settings, which takes a tenth of a second
FIXED = "fixed_params"  # where Optuna looks for settings that are not to be suggested
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Trial:
    """What an objective gets: a number from 0, settings to try, and a folder for checkpoints that outlives a worker."""

    def __init__(
        self, tickets: Tickets, attempt: FrozenTrial, trial: optuna.Trial, trial_id: int, folder: Path
    ) -> None:
        self.number = _ticket(attempt)
        self.folder = folder
        self.id = trial_id  # the storage's own
        self.settings = _settings(tickets.plan, trial)
        self._tickets, self._trial = tickets, trial
        self._reported = set(attempt.intermediate_values)

    def report(self, step: int, value: float, *, ended: bool = False) -> None:
        """Tell an intermediate value. One that the attempt before has told already stays as it is.

        Args:
            ended: the trial is at its end, where nothing is saved any more by giving it up. As a complete one it stays
                among those that others are measured by.

        Raises:
            Pruned: the trial does worse than half of the others did at this step, and has not ended.
            Lost: the trial is another worker's by now.
            FloatingPointError: the value is not finite.
        """
        if not math.isfinite(value):
            raise FloatingPointError(f"the value at step {step} is {value}")
        with _fenced():
            self._tickets.sign(self)
            if step not in self._reported:
                self._trial.report(value, step)
        if self.number > 0 and not ended and self._trial.should_prune():
            raise Pruned(f"worse than the median of the other trials at step {step}")


@dataclass(frozen=True)
class Loss:
    """A trial that lost its worker. progressed: since the loss before, by a report or a checkpoint."""

    number: int
    progressed: bool


class Tickets:
    """The study of one plan, in its folder or in the storage that `GENFORGE_OPTUNA_STORAGE` names."""

    def __init__(
        self, plan: Plan, folder: Path, *, wait: bool = False, ask: Callable[[int, int], bool] | None = None
    ) -> None:
        """Open the study, or make it when there is none: any number of processes may do so at once.

        Args:
            plan: the search.
            folder: its state on this machine: the journal, trials' folders, workers' logs.
            wait: for a database that does not answer, rather than fail at once.
            ask: has another process choose the settings of a trial, by its id and number, where that takes SciPy; False
                where nobody did.
        """
        _silence_optuna()
        self.plan, self.folder, self._ask = plan, folder, ask
        self.store = Store(folder, wait=wait)
        self._storage = self.store.storage
        direction: Literal["minimize", "maximize"] = "minimize" if plan.better == "lower" else "maximize"
        # The folder's name is the digest of the search's inputs: on a shared database other inputs are another study.
        name = f"{plan.name}/{folder.name}"
        with self.store.alone():
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction=direction,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
                load_if_exists=True,
            )
            self._name_the_measure()
        self._study_id = self._storage.get_study_id_from_name(name)

    # Claiming and finishing: the workers' part.

    def claim(self, worker: Identity) -> Trial | None:
        """The next waiting trial, now running in the name of `worker`; None when nothing waits."""
        waiting = [trial for trial in self._latest().values() if trial.state == TrialState.WAITING]
        for attempt in sorted(waiting, key=_ticket):
            # Another worker may have taken it, and even finished it, since we looked.
            with contextlib.suppress(UpdateFinishedTrialError):
                trial_id = self._id(attempt)
                if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    self._storage.set_trial_user_attr(trial_id, "alive", time.time())
                    self._storage.set_trial_user_attr(trial_id, "worker", worker.to_json())
                    return self._begin(attempt, trial_id)
        return None

    def sign(self, trial: Trial) -> None:
        """Give a sign of life.

        Raises:
            Lost: by this, and by all that follow: the trial is another worker's by now, and nothing was written.
        """
        with _fenced():
            self._storage.set_trial_user_attr(trial.id, "alive", time.time())

    def complete(self, trial: Trial, value: float) -> None:
        """The trial ran to its end. A value that is not finite makes it a failed one, with that as its reason."""
        if math.isfinite(value):
            self._finish(trial, TrialState.COMPLETE, value)
        else:
            self.fail(trial, f"the value is {value}")

    def prune(self, trial: Trial) -> None:
        """Its value is the last one reported."""
        reports = self._storage.get_trial(trial.id).intermediate_values
        self._finish(trial, TrialState.PRUNED, reports[max(reports)] if reports else None)

    def fail(self, trial: Trial, reason: str) -> None:
        """Optuna keeps no reason, so it stands in the trial's attributes."""
        with _fenced():
            self._storage.set_trial_user_attr(trial.id, "reason", reason)
        self._finish(trial, TrialState.FAIL, None)

    # Filling and reaping: the supervisor's part.

    def fill(self) -> None:
        """Make every ticket that has no attempt, or whose last one was lost with its worker, wait for a worker."""
        if not self._missing():
            return
        with self.store.alone():
            for attributes, settings, reports in self._missing():
                self._enqueue(attributes, settings, reports)
            self._drop_twins()

    def reap(self, watch: Watch) -> list[Loss]:
        """Fail the running attempts whose worker is dead, and make their tickets wait again.

        An attempt that failed by itself has a reason, a lost one has none: so to lose one is a single write, and
        whoever is killed in here leaves nothing half done.
        """
        losses = []
        for attempt in self._study.get_trials(deepcopy=False):
            if attempt.state == TrialState.RUNNING and watch.is_dead(attempt):
                # The worker may finish it in this very moment, or another supervisor find it dead.
                with contextlib.suppress(UpdateFinishedTrialError):
                    losses.append(self._lose(attempt))
        self.fill()
        return losses

    def count(self) -> dict[str, int]:
        """Tickets by state: `waiting`, `running`, `finished`. They sum to the number asked for, once filled."""
        latest = self._latest().values()
        waiting = sum(trial.state == TrialState.WAITING or _is_lost(trial) for trial in latest)
        running = sum(trial.state == TrialState.RUNNING for trial in latest)
        return {"waiting": waiting, "running": running, "finished": len(latest) - waiting - running}

    # Results.

    def rows(self) -> list[Row]:
        """Finished trials by number."""
        latest = sorted(self._latest().items())
        return [_row(number, last) for number, last in latest if last.state in _STATES and not _is_lost(last)]

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
        with without(SCIKIT_LEARN):
            import optuna.importance as importance  # `from optuna` gives one that waits to be used

        evaluator = importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of few trials; the page says how many there were
            shares = importance.get_param_importances(self._study, evaluator=evaluator)
        if not all(math.isfinite(share) for share in shares.values()) or sum(shares.values()) <= 0:
            return {}, "importance cannot be told: no setting sets the better trials apart"
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))), ""

    # Between this file and Optuna.

    def _name_the_measure(self) -> None:
        """The dashboard calls the value of a study that has no name for it "Objective 0". Written once: a study that
        an older genforge has made gets it too."""
        if self._study.metric_names != [self.plan.measure]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._study.set_metric_names([self.plan.measure])

    def _latest(self) -> dict[int, FrozenTrial]:
        """The last attempt of each ticket that the plan asks for (a study made for more trials may hold more)."""
        latest = _latest_attempts(self._study.get_trials(deepcopy=False))
        return {number: trial for number, trial in latest.items() if number < self.plan.trials}

    def _id(self, attempt: FrozenTrial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, attempt.number)

    def _begin(self, attempt: FrozenTrial, trial_id: int) -> Trial:
        number = _ticket(attempt)
        folder = self._inherit(number, _attempt(attempt))
        if not attempt.system_attrs[FIXED]:
            wants_scipy = self.plan.wants_scipy(number)
            if not (wants_scipy and self._ask is not None and self._ask(trial_id, number)):
                if wants_scipy:
                    load()  # while others do, and not one after the other
                self.choose(trial_id, number)
        return Trial(self, attempt, optuna.Trial(self._study, trial_id), trial_id, folder)

    def choose(self, trial_id: int, number: int) -> None:
        """Give a claimed trial its settings, unless it has them by now.

        One trial after the other: two that are suggested at once know nothing of each other, and are often the same.

        Args:
            trial_id: the storage's own.
            number: of the ticket.

        Raises:
            UpdateFinishedTrialError: the trial is nobody's any more.
        """
        with self.store.alone(SECONDS_TO_ASK):
            if not self._storage.get_trial(trial_id).system_attrs[FIXED]:
                self._storage.set_trial_system_attr(trial_id, FIXED, self._suggested(number))
            _settings(self.plan, optuna.Trial(self._study, trial_id))  # from now on all others know of them

    def _suggested(self, number: int) -> dict[str, Value]:
        """Settings for a ticket, seeded by its number and not by who holds it."""
        known = [trial for _, trial in sorted(self._latest().items()) if not _is_lost(trial)]
        return suggest(self.plan, known, number)

    def _inherit(self, number: int, attempt: int) -> Path:
        """The folder of an attempt, with what the one before it has left on this disk.

        It is renamed: a worker that was cut off, and still writes, writes beside it and not into it.
        """
        own, earlier = self.folder / f"trial-{number}-{attempt}", trial_folders(self.folder, number)
        if earlier and earlier[-1] != own:
            earlier[-1].rename(own)
        return own

    def _kept(self, number: int) -> list[str]:
        """Names of what the ticket's last attempt has in its folder, such as those of its checkpoints."""
        folders = trial_folders(self.folder, number)
        return sorted(path.name for path in folders[-1].glob("[!.]*")) if folders else []

    def _finish(self, trial: Trial, state: TrialState, value: float | None) -> None:
        with _fenced():
            self._storage.set_trial_state_values(trial.id, state, None if value is None else [value])

    def _missing(self) -> list[tuple[dict[str, Any], dict[str, Any], dict[int, float]]]:
        """Attempts to add: their attributes, settings and reports."""
        latest = self._latest()
        missing: list[tuple[dict[str, Any], dict[str, Any], dict[int, float]]] = []
        for number in range(self.plan.trials):
            last = latest.get(number)
            if last is None:
                settings = dict(self.plan.defaults) if number == 0 else {}
                missing.append(({"ticket": number, "attempt": 0}, settings, {}))
            elif _is_lost(last):
                carried = {
                    "ticket": number,
                    "attempt": _attempt(last) + 1,
                    "deaths": self._deaths(last),
                    "reports_before": len(last.intermediate_values),
                    "kept_before": self._kept(number),
                    "seconds_before": _seconds(last),
                }
                missing.append((carried, last.params, last.intermediate_values))
        return missing

    def _enqueue(self, attributes: dict[str, Any], settings: dict[str, Any], reports: dict[int, float]) -> None:
        """As `Study.enqueue_trial` does, with the reports made so far."""
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                system_attrs={FIXED: settings},
                user_attrs=attributes,
                intermediate_values=reports,
            )
        )

    def _drop_twins(self) -> None:
        counted = {trial.number for trial in self._latest().values()}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING and _ticket(trial) < self.plan.trials and trial.number not in counted:
                with contextlib.suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_user_attr(self._id(trial), "reason", "added twice")
                    self._storage.set_trial_state_values(self._id(trial), TrialState.FAIL)

    def _lose(self, attempt: FrozenTrial) -> Loss:
        trial_id, deaths = self._id(attempt), self._deaths(attempt)
        if deaths >= MOST_DEATHS:
            self._storage.set_trial_user_attr(trial_id, "reason", f"its worker was killed {deaths} times in a row")
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        return Loss(_ticket(attempt), self._progressed(attempt))

    def _deaths(self, lost: FrozenTrial) -> int:
        """Deaths in a row without progress, this one included. One before the trial began is not the trial's."""
        if self._progressed(lost):
            return 1
        return int(lost.user_attrs.get("deaths", 0)) + ("worker" in lost.user_attrs)

    def _progressed(self, lost: FrozenTrial) -> bool:
        before = lost.user_attrs
        reports = len(lost.intermediate_values) > before.get("reports_before", 0)
        return reports or self._kept(_ticket(lost)) != before.get("kept_before", [])


def trial_folders(folder: Path, number: int | str = "*") -> list[Path]:
    """Folders of a ticket's attempts, or of all, in the folder of a search, by their numbers."""
    return sorted(folder.glob(f"trial-{number}-*"), key=lambda path: [int(part) for part in path.name.split("-")[1:]])


def finished_tickets(storage: BaseStorage, study: str) -> set[int] | None:
    """Numbers of the tickets of a study that are done; None when there is no such study."""
    try:
        trials = storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False)
    except KeyError:
        return None
    latest = _latest_attempts(trials)
    return {number for number, trial in latest.items() if trial.state.is_finished() and not _is_lost(trial)}


def _latest_attempts(trials: list[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The last attempt of each ticket.

    Of twins, the first: storages number trials in the order in which all see them, so all agree on it.
    """
    latest: dict[int, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        number = _ticket(trial)
        if number not in latest or _attempt(trial) > _attempt(latest[number]):
            latest[number] = trial
    return latest


@contextlib.contextmanager
def _fenced() -> Iterator[None]:
    """A trial that is finished in the storage, and not by us, was given to another worker."""
    try:
        yield
    except UpdateFinishedTrialError:
        raise Lost("no sign of life came in time, and another worker took the trial up") from None


def _settings(plan: Plan, trial: optuna.Trial) -> dict[str, Value]:
    """What a trial that was chosen has, written down as Optuna does."""
    return {key: suggested(trial, key, dimension) for key, dimension in plan.space.items()}


def _ticket(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["ticket"])


def _attempt(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["attempt"])


def _is_lost(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


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
    """It tells every trial on standard error, as the supervisor's bar does, and warns with pages of SQL of a database
    that is away, as `storage.py` does."""
    optuna.logging.set_verbosity(logging.ERROR)
