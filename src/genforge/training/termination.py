"""SIGTERM as an exception, at a moment when nothing is half done.

Schedulers and `docker stop` send SIGTERM and wait for some seconds before they kill. Between two steps the loop's state
is whole, so that is where the signal is heard: the loop writes its checkpoint and leaves. Around the loop, where there
is nothing to keep, it is heard at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self


class Terminated(SystemExit):
    """The process was asked to end. Ends it with the status that a shell gives for SIGTERM, unless it is caught."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "asked to end, by SIGTERM"


class Termination:
    """Within this block SIGTERM is noted instead of ending the process; `check` raises Terminated where that is safe,
    and so does the end of the block: a signal is never lost.

    Blocks may stand inside each other; the innermost hears. Signals reach the main thread alone: in another thread (a
    flow's worker, a test) the block changes nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._at_once = False

    def __enter__(self) -> Self:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)
            around = getattr(self._before, "__self__", None)
            if self._asked and isinstance(around, Termination):
                # Its tidying up has begun with the exception that leaves this block: no second signal breaks into it.
                around._asked, around._at_once = True, False
        if kind is None:
            self.check()

    @property
    def is_asked(self) -> bool:
        """Whether SIGTERM has come."""
        return self._asked

    def check(self) -> None:
        """Raises Terminated when SIGTERM has come."""
        if self._asked:
            raise Terminated

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block (long work that changes no state) SIGTERM raises Terminated wherever it comes."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._at_once:
            self._at_once = False  # a second signal must not break into the tidying up after the first
            raise Terminated
