"""What killed stages leave: processes without an owner, DVC's locks, outputs that were half written.

Most mends itself: a stage ends with its owner, kernel locks end with their holder, DVC drops the entries of processes
that are gone. Here is what does not: a process that was stopped (SIGSTOP) when its owner died, an entry of DVC's whose
number another process has now, a lock file that was cut off in the middle, temporary files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from genforge.files import is_abandoned, is_aside, write_text
from genforge.leftovers import Leftover
from genforge.ownership import is_orphan
from genforge.processes import Identity, command_line, program, words_of
from genforge.settings import UserError

SECONDS_TO_END_ITSELF = 6.0  # an orphan younger than that is ending already
SECONDS_TO_DIE = 10.0  # after SIGKILL
WRITTEN = ("data", "results")


def find(root: Path) -> Iterator[Leftover]:
    """All of it in the project `root`. Changes nothing."""
    yield from _orphans(root)
    yield from locks_of_dvc(root)
    yield from _half_written(root)


def _orphans(root: Path) -> Iterator[Leftover]:
    for process in psutil.process_iter():
        if (found := _orphan(process, root)) is not None:
            identity, command = found
            yield Leftover(
                kind="process",
                place=f"pid {identity.pid}",
                what=f"{command} works for a process that has gone",
                remedy="end it (SIGKILL)",
                mend=functools.partial(_end, identity, root),
            )


def _orphan(process: psutil.Process, root: Path) -> tuple[Identity, str] | None:
    """The process and its command when it is a stage's process of this project and should have ended."""
    try:
        words = process.cmdline()
        if program(words) != "genforge" or any("genforge.tracking.uploader" in word for word in words):
            return None  # the uploader outlives its runs on purpose, and ends by itself
        if Path(process.cwd()) != root.resolve() or process.status() == psutil.STATUS_ZOMBIE:
            return None
        young = time.time() - process.create_time() < SECONDS_TO_END_ITSELF
        stopped = process.status() == psutil.STATUS_STOPPED
        if (young and not stopped) or not is_orphan(process.pid, process.environ()):
            return None
        identity = Identity.of(process.pid)
        return None if identity is None else (identity, command_line(words))
    except psutil.Error:
        return None  # it ended while we looked, or belongs to somebody else


def _end(identity: Identity, root: Path) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired, ProcessLookupError):
        process = psutil.Process(identity.pid)
        if not identity.is_gone() and _orphan(process, root) is not None:
            os.kill(identity.pid, signal.SIGKILL)
            process.wait(SECONDS_TO_DIE)  # the kernel takes a moment


def locks_of_dvc(root: Path) -> Iterator[Leftover]:
    """DVC's table of who reads and writes what, where killed ones stand in it or have cut it off."""
    path = root / ".dvc" / "tmp" / "rwlock"
    table = _read_table(path)
    if table is None:
        yield Leftover(
            kind="lock",
            place=str(path),
            what="was cut off in the middle of writing; no dvc command works with it",
            remedy="delete it, when no dvc process is at work",
            mend=functools.partial(_mend_table, root),
        )
        return
    dead = [entry for entry in _entries(table) if _is_stale(entry, path)]
    if dead:
        pids = ", ".join(sorted({str(entry["pid"]) for entry in dead}))
        yield Leftover(
            kind="lock",
            place=str(path),
            what=f"entries of dvc processes that are gone (pid {pids})",
            remedy="remove these entries",
            mend=functools.partial(_mend_table, root),
        )


def _read_table(path: Path) -> dict[str, Any] | None:
    """DVC's table of readers and writers; empty where there is none, None where it cannot be read."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        return None
    return table if isinstance(table, dict) else None


def mend_cut_off_table(root: Path) -> None:
    """Remove DVC's table of locks when its writer was killed in the middle, so that DVC works again.

    Raises:
        UserError: a dvc process is writing it at this very time.
    """
    if _read_table(root / ".dvc" / "tmp" / "rwlock") is None:
        _mend_table(root)


def _entries(table: dict[str, Any]) -> list[dict[str, Any]]:
    readers = [entry for entries in table.get("read", {}).values() for entry in entries]
    return [*readers, *table.get("write", {}).values()]


def _is_stale(entry: dict[str, Any], path: Path) -> bool:
    """Whether the process of an entry has gone, be it that another one has its number now."""
    now = Identity.of(int(entry["pid"]))
    if now is None or now.is_gone():
        return True
    words = words_of(now.pid)
    return now.started > path.stat().st_mtime + 1.0 or (bool(words) and not any("dvc" in word for word in words))


def _mend_table(root: Path) -> None:
    """Under DVC's own guard, which keeps DVC from the table meanwhile."""
    from dvc.lock import LockError, make_lock

    folder = root / ".dvc" / "tmp"
    path = folder / "rwlock"
    try:
        with make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder)):
            table = _read_table(path)
            if table is None:
                path.unlink()
                return
            stale = [entry for entry in _entries(table) if _is_stale(entry, path)]
            readers = {
                place: [entry for entry in entries if entry not in stale]
                for place, entries in table.get("read", {}).items()
            }
            writers = {place: entry for place, entry in table.get("write", {}).items() if entry not in stale}
            table = {"write": writers, "read": {place: entries for place, entries in readers.items() if entries}}
            write_text(path, json.dumps({kind: places for kind, places in table.items() if places}))
    except LockError as error:
        raise UserError(f"{path}: a dvc process is at work on it ({error}); try again") from None


def _half_written(root: Path) -> Iterator[Leftover]:
    for place in WRITTEN:
        for folder, folders, files in os.walk(root / place):
            asides = [Path(folder, name) for name in [*folders, *files] if is_aside(Path(name))]
            folders[:] = [name for name in folders if not is_aside(Path(name))]
            for path in sorted(asides):
                if is_abandoned(path):
                    size = sum(part.stat().st_size for part in [path, *path.rglob("*")] if part.is_file())
                    yield Leftover(
                        kind="temporary file" if path.is_file() else "temporary folder",
                        place=str(path),
                        what=f"{size:,} bytes of an output whose writer was killed",
                        remedy="delete it",
                        mend=functools.partial(_delete, path),
                    )


def _delete(path: Path) -> None:
    if not is_abandoned(path):
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=False)
    else:
        path.unlink(missing_ok=True)
