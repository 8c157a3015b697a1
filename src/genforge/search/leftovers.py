"""What killed searches leave: running trials without a worker, old checkpoints, locks of Optuna's own tools.

The next search of the same recipe mends its own by itself; this is for when there is none. A torn line at the end of
a journal is cut off by whoever writes next. Our own lock files stay and hold nothing: the kernel's locks on them die
with their holders.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from genforge.leftovers import Leftover
from genforge.locks import Lock
from genforge.processes import Identity
from genforge.search.run import supervisor_lock
from genforge.search.storage import STORAGE_VARIABLE, open_existing_database, open_journal
from genforge.search.tickets import finished_tickets, trial_folders

LEASE = 300.0  # seconds: the default of `search.lease`
SECONDS_OF_A_LOCK = 60.0  # Optuna's tools hold theirs for some milliseconds


def find(root: Path, lease: float = LEASE) -> Iterator[Leftover]:
    """What the searches of a project have left, in the project's folder and in the database that
    `GENFORGE_OPTUNA_STORAGE` names.

    Args:
        root: the project's folder.
        lease: seconds without a sign of life after which a worker of another machine is taken to be dead. Here the
            clocks of the machines are compared, which a running search does not.

    Raises:
        UserError: the database cannot be opened.
    """
    folders = sorted(path for path in (root / ".genforge" / "search").glob("*/*") if path.is_dir())
    database = open_existing_database() if os.environ.get(STORAGE_VARIABLE) else None
    if database is not None:
        yield from _trials(database, lease)
    for folder in folders:
        journal = folder / "journal.log"
        storage = open_journal(journal) if journal.exists() else database
        if journal.exists():
            assert storage is not None
            yield from _trials(storage, lease)
            yield from _locks(journal)
        if storage is not None:  # else nothing is known of its trials
            yield from _checkpoints(folder, storage)


def _trials(storage: BaseStorage, lease: float) -> Iterator[Leftover]:
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            why = _why_dead(trial, lease) if "ticket" in trial.user_attrs else ""
            if why:
                yield Leftover(
                    "trial",
                    f"{study.study_name}, trial {trial.user_attrs['ticket']}",
                    f"RUNNING, but {why}",
                    "mark it lost: the next search takes it up from its checkpoint",
                    partial(_lose, storage, trial._trial_id, lease),
                )


def _why_dead(trial: FrozenTrial, lease: float) -> str:
    """Why nobody can be working on this trial any more; empty when somebody may be."""
    signature, alive = trial.user_attrs.get("worker"), trial.user_attrs.get("alive")
    if signature is not None:
        worker = Identity.from_json(signature)
        if worker.is_here():
            return f"its worker, process {worker.pid}, has ended" if worker.is_gone() else ""
    else:
        worker = None
    began = trial.datetime_start.timestamp() if trial.datetime_start is not None else 0.0
    silent = time.time() - (began if alive is None else float(alive))
    if silent < lease:
        return ""
    who = "the worker that claimed it" if worker is None else f"its worker, process {worker.pid} of {worker.host},"
    return f"{who} has given no sign of life for {silent:.0f} s"


def _lose(storage: BaseStorage, trial_id: int, lease: float) -> None:
    trial = storage.get_trial(trial_id)
    if trial.state == TrialState.RUNNING and _why_dead(trial, lease):
        with contextlib.suppress(UpdateFinishedTrialError):  # another one was faster
            storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _checkpoints(folder: Path, storage: BaseStorage) -> Iterator[Leftover]:
    """Folders of trials that are finished, or were taken up again in a newer folder, or that no study knows."""
    for path in trial_folders(folder):
        why = _why_useless(path, storage)
        if why:
            yield Leftover("checkpoints", str(path), why, "delete them", partial(_delete_checkpoints, path, storage))


def _why_useless(path: Path, storage: BaseStorage) -> str:
    number = int(path.name.split("-")[1])
    finished = finished_tickets(storage, f"{path.parent.parent.name}/{path.parent.name}")
    if finished is None:
        return "of a search that is gone"
    if number in finished:
        return "of a trial that is finished"
    return "" if trial_folders(path.parent, number)[-1] == path else "of an attempt that another one took up"


def _delete_checkpoints(path: Path, storage: BaseStorage) -> None:
    with _no_supervisor(path.parent) as free:
        if free and path.exists() and _why_useless(path, storage):
            shutil.rmtree(path)


@contextlib.contextmanager
def _no_supervisor(folder: Path) -> Iterator[bool]:
    """Whether no search runs in this folder; and none begins within the block."""
    lock = Lock(supervisor_lock(folder))
    free = lock.acquire()
    try:
        yield free
    finally:
        lock.release()


def _locks(journal: Path) -> Iterator[Leftover]:
    """Optuna's own tools leave these when they are killed, and wait half a minute for them. We do neither."""
    for path in sorted(journal.parent.glob(f"{journal.name}.lock*")):
        age = _age(path)
        if age >= SECONDS_OF_A_LOCK:
            yield Leftover("lock", str(path), f"Optuna's, {age:.0f} s old", "delete it", _unlink_when_old(path))


def _unlink_when_old(path: Path) -> Callable[[], None]:
    def mend() -> None:
        if _age(path) >= SECONDS_OF_A_LOCK:
            path.unlink(missing_ok=True)

    return mend


def _age(path: Path) -> float:
    """Seconds; 0 when it is not there any more."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
