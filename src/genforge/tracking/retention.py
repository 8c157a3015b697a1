"""Which logs are forgotten, so that their folder does not grow without end.

A log is forgotten when it is old, or when those after it fill the room that logs have; but never before MLflow has all
of it, and not while a run that stays is part of it.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Mapping
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
    logs = {log.id: log for log in sorted(all_runs(root), key=_last_change, reverse=True)}
    count, room, kept = 0, 0, set[str]()
    for log in logs.values():
        count, room = count + 1, room + _bytes(log.folder)
        is_due = time.time() - _last_change(log) > days * 86400 or count > runs or room > size
        if not (is_due and Place.read(log, store).is_complete(log)):
            kept |= _with_parents(log, logs)
    for identity, log in logs.items():
        if identity not in kept:
            _forget(log)


def _with_parents(log: RunLog, logs: Mapping[str, RunLog]) -> set[str]:
    """The log's id, and those of the runs that it is part of."""
    found = {log.id}
    while (parent := log.start().values["parent"]) in logs and parent not in found:
        found.add(parent)
        log = logs[parent]
    return found


def _forget(log: RunLog) -> None:
    """Under another name first: a log is whole or absent."""
    aside = log.folder.with_name(f".{log.id}.{uuid.uuid4().hex[:8]}.old")
    log.folder.rename(aside)
    shutil.rmtree(aside)


def _last_change(log: RunLog) -> float:
    return (log.folder / "events.jsonl").stat().st_mtime


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
