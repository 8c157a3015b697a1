"""Locks that know their holder, and that the kernel gives back the moment the holder dies.

A lock is an `flock` on a file that stays there; the file holds who has it, for the message to the second. No child
inherits it (close-on-exec), so nothing that lives on keeps it.

On a network disk this holds as far as its `flock` does: Linux's NFS and SMB clients hand it to the server, so it holds
between machines as well; a lock of a machine that crashed is given back when its lease runs out (NFSv4: 90 s).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from genforge.processes import Identity, command_line, describe, words_of
from genforge.progress import say
from genforge.settings import UserError

SECONDS_BETWEEN_TRIES = 0.1


class Busy(UserError):
    """Somebody else holds the lock; the text says who."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: the process, what it was called with, and since when, in seconds since 1970."""

    process: Identity
    command: str
    since: float

    def __str__(self) -> str:
        since = Identity(self.process.pid, self.since, self.process.host)
        return describe(since, self.command)


class Lock:
    """One lock, free until `acquire` says True.

    Args:
        path: its file; folders are made.
        mode: permissions of a new file.
    """

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self.path, self._mode = path, mode
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Take it if it is free, at once. Raises UserError where the file system has no locks."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = self._open()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            except OSError as error:
                os.close(handle)
                raise UserError(
                    f"{self.path} cannot be locked ({error}); put the project on a disk with locks"
                ) from None
            if self._stands(handle):
                break
            os.close(handle)  # somebody removed the file meanwhile: what we hold locks nobody out
        self._handle = handle
        told = {"process": Identity.own().to_json(), "command": _own_command(), "since": time.time()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(told).encode(), 0)
        return True

    def release(self) -> None:
        """Give it back. The file stays: to remove it would let two others hold what they believe to be one lock."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None

    def holder(self) -> Holder | None:
        """Who has it, or had it last; None where nobody says so."""
        try:
            told = json.loads(self.path.read_text("utf-8"))
            return Holder(Identity.from_json(told["process"]), str(told["command"]), float(told["since"]))
        except (OSError, ValueError):  # not there, or being written in this moment
            return None

    def is_held(self) -> bool:
        """Whether somebody has it now. Asking never takes it from anyone."""
        if not self.path.exists():
            return False
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def _open(self) -> int:
        # Without O_CREAT first: the kernel refuses to "create" another user's file in a folder that all may write.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(self.path, flags)
            with contextlib.suppress(FileExistsError):
                handle = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, self._mode)
                os.fchmod(handle, self._mode)
                return handle

    def _stands(self, handle: int) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(handle))


@contextlib.contextmanager
def alone(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock `path` for the block.

    Args:
        what: what only one may do at a time, for the message, such as `write results/models/gan`.
        patience: seconds to wait for a holder, which may be ending.

    Raises:
        Busy: names the holder.
    """
    lock = Lock(path)
    give_up = time.monotonic() + patience
    told = False
    while not lock.acquire():
        if time.monotonic() >= give_up:
            raise Busy(busy(lock, what))
        if not told:
            say(f"{lock.holder() or 'another process'} is at it; waiting {patience:.0f} s in case it is ending")
            told = True
        time.sleep(SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        lock.release()


def busy(lock: Lock, what: str) -> str:
    """What is told to the second."""
    holder = lock.holder() or f"another process, which holds {lock.path}"
    return f"only one process may {what} at a time, and {holder} does; wait for it, or end it"


def _own_command() -> str:
    return command_line(words_of(os.getpid()) or sys.argv)
