"""Which logs are forgotten, so that their folder does not grow without end.

A log is forgotten when it is old, or when those after it fill the room that logs have; but never before MLflow has all
of it, and not while a run that stays is part of it.
"""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

from genforge.tracking.replay import Place
from genforge.tracking.run_log import RunLog, all_runs

DAYS_KEPT = 30
RUNS_KEPT = 2000
BYTES_KEPT = 4 * 2**30


def forget_old(root: Path, store: str, days: float = DAYS_KEPT, runs: int = RUNS_KEPT, size: int = BYTES_KEPT) -> None:
    """Remove logs that are wholly in MLflow and older than `days`, or behind the newest `runs` or `size` bytes.

    Args:
        store: the digest by which `Place` knows the store.
    """
    count, room, kept_parents = 0, 0, set[str]()
    for log in sorted(all_runs(root), key=_last_change, reverse=True):
        count, room = count + 1, room + _bytes(log.folder)
        is_due = time.time() - _last_change(log) > days * 86400 or count > runs or room > size
        if is_due and Place.read(log, store).is_complete(log) and log.id not in kept_parents:
            _forget(log)
        elif (parent := log.start().values["parent"]) is not None:
            kept_parents.add(parent)


def _forget(log: RunLog) -> None:
    """Under another name first: a log is whole or absent."""
    aside = log.folder.with_name(f".{log.id}.{uuid.uuid4().hex[:8]}.old")
    log.folder.rename(aside)
    shutil.rmtree(aside)


def _last_change(log: RunLog) -> float:
    return (log.folder / "events.jsonl").stat().st_mtime


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
