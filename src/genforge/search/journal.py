"""A lock for Optuna's journal file that dies with its holder.

Optuna's own lock is a file that a killed process leaves behind, and then everyone waits 30 seconds. An `flock` is
given back by the kernel. It is on a file of another name than Optuna's, which would take ours for one left behind.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

SECONDS_BETWEEN_TRIES = 0.005  # a holder needs about as long
_BLOCK = 65536


class KernelLock:
    """Holds `<journal>.flock`. Whoever takes it first cuts off what a dead writer (or a full disk) left half
    written at the journal's end: only a holder writes, so an unfinished last line has no owner any more."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(f"{journal}.flock", poll_interval=SECONDS_BETWEEN_TRIES)

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            cut_torn_tail(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def cut_torn_tail(journal: Path) -> None:
    """Shorten the file to its last newline. A file that ends in one, is empty or absent stays as it is."""
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        end = size = file.seek(0, 2)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
