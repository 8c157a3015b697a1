"""What the dead have left of runs: open ends, logs that MLflow has not, strays in MLflow, temporary files.

Locks are none of these: the system frees them when their holder dies.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from genforge.leftovers import Leftover
from genforge.progress import say
from genforge.settings import UserError
from genforge.tracking import mlflow_store
from genforge.tracking.replay import Place, Replay, Stray
from genforge.tracking.run_log import RunLog, reap, run_folders, runs_folder
from genforge.tracking.uploader import drain, uploader_lock

DAYS_OF_SILENCE = 7  # of a run on another machine, which cannot be asked whether it lives
SECONDS_OF_A_FILE = 600  # younger temporary files may be somebody's work
PATIENCE = 5.0  # seconds to wait for MLflow


def find(root: Path) -> Iterator[Leftover]:
    """Leftovers of the runs of the project in `root`. Asks MLflow too, where any run was ever sent to it."""
    yield from _open_ends(root)
    yield from _unreadable_logs(root)
    yield from _temporary_files(root)
    yield from _unsent_logs(root)
    yield from _strays(root)


def _open_ends(root: Path) -> Iterator[Leftover]:
    for log in _open_logs(root):
        process = log.process()
        if process.is_gone():
            what = f"still open, and its process {process.pid} has ended"
            yield Leftover("run", log.id, what, "end it as KILLED", functools.partial(_end_gone, root, log))
        elif not process.is_here() and (days := _days_of_silence(log)) > DAYS_OF_SILENCE:
            what = f"still open on the machine {process.host}, and silent for {days:.0f} days"
            yield Leftover("run", log.id, what, "end it as KILLED", functools.partial(_end_silent, log))


def _open_logs(root: Path) -> list[RunLog]:
    return [log for log in run_folders(root) if log.status() is None and log.is_readable()]


def _end_gone(root: Path, log: RunLog) -> None:
    if log.folder.is_dir():
        reap(root, [log])


def _end_silent(log: RunLog) -> None:
    """A run that lives after all opens its log again with the next word, and ends it with its own end."""
    if log.folder.is_dir() and log.status() is None and _days_of_silence(log) > DAYS_OF_SILENCE:
        log.end("KILLED", f"nothing was heard of it on {log.process().host} for {DAYS_OF_SILENCE} days")


def _days_of_silence(log: RunLog) -> float:
    return (time.time() - (log.folder / "events.jsonl").stat().st_mtime) / 86400


def _unreadable_logs(root: Path) -> Iterator[Leftover]:
    for log in run_folders(root):
        if not log.is_readable():
            aside = runs_folder(root).with_name("damaged") / log.id
            what = "a run's log that does not begin with a start, as after a power cut"
            yield Leftover("log", str(log.folder), what, f"move it to {aside}", functools.partial(_move, log, aside))


def _move(log: RunLog, aside: Path) -> None:
    if log.folder.is_dir() and not log.is_readable():
        aside.parent.mkdir(parents=True, exist_ok=True)
        log.folder.rename(aside if not aside.exists() else aside.with_name(f"{aside.name}-{time.time_ns()}"))


def _unsent_logs(root: Path) -> Iterator[Leftover]:
    """All of them are one thing: MLflow was away."""
    unsent = [log.id for log in Replay(root).pending() if log.status() is not None]
    if not unsent or _is_uploading(root):
        return
    shown = ", ".join(unsent[:3]) + (", ..." if len(unsent) > 3 else "")
    store = mlflow_store.store_name(root)
    what = f"{len(unsent)} ended {'run' if len(unsent) == 1 else 'runs'} not wholly in MLflow at {store}: {shown}"
    yield Leftover("log", str(runs_folder(root)), what, "send what is missing", functools.partial(_send, root))


def _is_uploading(root: Path) -> bool:
    try:
        with uploader_lock(root).acquire(blocking=False):
            return False
    except Timeout:
        return True


def _send(root: Path) -> None:
    _, left = drain(root, PATIENCE)
    if left:
        name, reason = next(iter(left.items()))
        store = mlflow_store.store_name(root)
        raise UserError(
            f"{len(left)} runs could not be sent to MLflow at {store}, such as {name}: {reason}\n"
            f"Their logs are kept; start MLflow, and run this again"
        )


def _temporary_files(root: Path) -> Iterator[Leftover]:
    for path in sorted(_temporary(root)):
        if _age(path) > SECONDS_OF_A_FILE:
            what = "a temporary file of somebody who was killed"
            yield Leftover("temporary file", str(path), what, "delete it", functools.partial(_delete, path))


def _temporary(root: Path) -> Iterator[Path]:
    """What `RunLog.create`, `retention`, `files.replacing` and the uploader write aside, and databases half made."""
    runs = runs_folder(root)
    for pattern in (".*.tmp", ".*.old", "*/.upload.json.tmp", "*/.sending", "*/artifacts/**/.*.tmp"):
        yield from runs.glob(pattern)
    yield from runs.glob("*/artifacts/**/.*.old")
    if (database := mlflow_store.database_file(root)) is not None:
        yield from mlflow_store.half_made(database)


def _age(path: Path) -> float:
    """Seconds since anything in it was touched."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return time.time() - max(file.stat().st_mtime for file in files)


def _delete(path: Path) -> None:
    if path.exists() and _age(path) > SECONDS_OF_A_FILE:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _strays(root: Path) -> Iterator[Leftover]:
    replay, database = Replay(root), mlflow_store.database_file(root)
    is_there = database is None or database.exists()  # looking makes none
    if not is_there or not any(Place.read(log, replay.store).mlflow_run for log in run_folders(root)):
        return  # nothing was ever sent there, so nothing of ours can have stayed
    try:
        with mlflow_store.answers_within(PATIENCE):
            strays = replay.strays()
    except Exception as error:  # whatever MLflow and its drivers raise for a store that is away
        say(f"MLflow at {mlflow_store.store_name(root)} was not looked at: {type(error).__name__}")
        return
    for stray in strays:
        if stray.status is None:
            what, remedy = f"a second run of the log {stray.log}", "delete it in MLflow"
        else:
            what, remedy = f"RUNNING in MLflow; the run {stray.log} has ended", f"mark it {stray.status}"
        yield Leftover("run", stray.mlflow_run, what, remedy, functools.partial(_settle, root, stray))


def _settle(root: Path, stray: Stray) -> None:
    replay = Replay(root)
    with mlflow_store.answers_within(PATIENCE):
        if stray in replay.strays():
            replay.settle(stray)
