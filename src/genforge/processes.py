"""Which process this is, and whether another one still lives.

A process id alone means little: the system gives it out again. With the time at which the process started, and the
machine's name, it names one process for good.
"""

from __future__ import annotations

import os
import socket
import textwrap
import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

CLOCK_SLACK = 2.0  # seconds: start times are counted from the boot time, which moves when the clock is set
LONGEST_COMMAND = 160  # characters that a message shows


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


def describe(process: Identity, command: str) -> str:
    """A process for a person who looks for it: command, id, machine, start."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.started))
    return f"`{command}` (pid {process.pid} on {process.host}, since {since})"


def command_line(words: list[str]) -> str:
    """A command line as it was typed, more or less, on one line: `python -m` and folders of programs are left out."""
    if not words:
        return "another process"
    rest = _after_python(words) or words
    typed = rest[1:] if rest[0] == "-m" and len(rest) > 1 else [PurePath(rest[0]).name, *rest[1:]]
    return textwrap.shorten(" ".join(typed), LONGEST_COMMAND, placeholder=" ...")


def program(words: list[str]) -> str:
    """Which program a command line runs: `dvc` for `dvc ...`, `python .../bin/dvc ...` and `python -m dvc.some.part`.

    A shell that runs a line with `dvc` in it is a shell. Empty where that cannot be known.
    """
    rest = _after_python(words)
    if rest is None:
        return PurePath(words[0]).name if words else ""
    return rest[1].partition(".")[0] if rest[0] == "-m" and len(rest) > 1 else PurePath(rest[0]).name


def _after_python(words: list[str]) -> list[str] | None:
    """A Python command line from its script or `-m` on; None where no Python runs a file or module."""
    if not words or not PurePath(words[0]).name.startswith("python"):
        return None
    rest = iter(words[1:])
    for word in rest:
        if word in ("-X", "-W"):
            next(rest, None)
        elif word == "-c":
            return None
        elif word == "-m" or not word.startswith("-"):
            return [word, *rest]
    return None


def nearest_dvc() -> Identity | None:
    """The closest ancestor of this process that is DVC (`dvc repro` and its like), or None."""
    import psutil

    for ancestor in psutil.Process().parents():
        if program(words_of(ancestor.pid)) == "dvc":
            return Identity.of(ancestor.pid)
    return None


def words_of(pid: int) -> list[str]:
    """The command line of a process; empty for one that has ended or belongs to somebody else."""
    import psutil

    try:
        return psutil.Process(pid).cmdline()
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return []
