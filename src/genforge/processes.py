"""Which process this is, and whether another one still lives.

A process id alone means little: the system gives it out again. With the time at which the process started, and the
machine's name, it names one process for good.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

CLOCK_SLACK = 2.0  # seconds: start times are counted from the boot time, which moves when the clock is set


@dataclass(frozen=True)
class Identity:
    """A process for good: its id, its start in seconds since 1970, and the name of its machine."""

    pid: int
    started: float
    host: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this id now, or None when there is none."""
        import psutil

        try:
            return cls(pid, psutil.Process(pid).create_time(), socket.gethostname())
        except psutil.NoSuchProcess:
            return None

    @classmethod
    def own(cls) -> Identity:
        """This very process."""
        own = cls.of(os.getpid())
        assert own is not None
        return own

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Identity:
        return cls(int(value["pid"]), float(value["started"]), str(value["host"]))

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started, "host": self.host}

    def is_here(self) -> bool:
        """True for a process of this machine."""
        return self.host == socket.gethostname()

    def is_gone(self) -> bool:
        """True when the process is known to have ended. A process of another machine is never known to have."""
        if not self.is_here():
            return False
        now = Identity.of(self.pid)
        return now is None or abs(now.started - self.started) > CLOCK_SLACK or _is_zombie(self.pid)


def _is_zombie(pid: int) -> bool:
    """A process that has ended, whose parent has not asked for its exit status yet."""
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def nearest_dvc() -> Identity | None:
    """The closest ancestor of this process that is DVC (`dvc repro` and its like), or None."""
    import psutil

    for ancestor in psutil.Process().parents():
        try:
            words = ancestor.cmdline()
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue  # another user's process, or one that ended meanwhile: not what started this one with `dvc`
        if _is_dvc(words):
            return Identity.of(ancestor.pid)
    return None


def _is_dvc(words: list[str]) -> bool:
    """`dvc ...`, `python .../bin/dvc ...` or `python -m dvc ...`. A shell that runs a line with `dvc` in it is none."""
    if any(PurePath(word).name == "dvc" for word in words[:1]):
        return True
    python = bool(words) and PurePath(words[0]).name.startswith("python")
    rest = [word for word in words[1:4] if word == "-m" or not word.startswith("-")]
    return python and bool(rest) and (PurePath(rest[0]).name == "dvc" or rest[:2] == ["-m", "dvc"])
