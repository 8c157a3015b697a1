"""Waiting: for a database that is away, and for others who hold a lock."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError

from genforge.progress import say
from genforge.settings import UserError

STORAGE_VARIABLE = "GENFORGE_OPTUNA_STORAGE"
SECONDS_BEFORE_A_WORD = 2.0  # two who wait for the same row look like a short absence

T = TypeVar("T")


class StorageAway(UserError):
    """The database did not answer for as long as we are patient. Everything that it had confirmed is there."""


class Patience:
    """Does things again while the database is away.

    seconds: for how long; may be changed at any time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def call(self, operation: Callable[[], T]) -> T:
        """Raises StorageAway when `seconds` were not enough."""
        began, spoke, pause = time.monotonic(), False, 0.05
        while True:
            try:
                answer = operation()
            except Exception as error:
                if not is_away(error):
                    raise
                waited = time.monotonic() - began
                if waited >= self.seconds:
                    raise StorageAway(
                        f"{STORAGE_VARIABLE}: the database does not answer, for {waited:.0f} s now "
                        f"({kind_of(error)}); finished trials are safe there: run again when it is back"
                    ) from error
                if not spoke and waited >= SECONDS_BEFORE_A_WORD:
                    spoke = True
                    say(f"the search's database is away ({kind_of(error)}); waiting up to {self.seconds:.0f} s for it")
                time.sleep(pause)
                pause = min(2.0, pause * 2)
            else:
                if spoke:
                    say(f"the search's database is back after {time.monotonic() - began:.0f} s")
                return answer


@contextlib.contextmanager
def in_turn(lock: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of this file for the block; after so many seconds of waiting, go on without it."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(Timeout):
            held.enter_context(FileLock(lock, timeout=-1.0 if math.isinf(seconds) else seconds))
        yield


def is_away(error: BaseException) -> bool:
    """Whether this is the database's or the network's failure of a moment, and nothing that we did."""
    from sqlalchemy import exc  # a journal does without it

    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # The last of them: Optuna asks again over a connection that has just broken.
    if isinstance(cause, exc.OperationalError | exc.InterfaceError | exc.PendingRollbackError):
        return True
    return isinstance(cause, exc.DBAPIError) and cause.connection_invalidated


def kind_of(error: BaseException) -> str:
    """For a message: the class of what is behind it. Its words may hold a password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return type(cause).__name__
