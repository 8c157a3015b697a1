"""A stopwatch that can be held: training's seconds, without those of looking at it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Runs from when it is made.

    Args:
        seconds: what it shows at its start: the seconds of a run before it was stopped.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._began

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Time stands still within the block."""
        self._before = self.seconds
        try:
            yield
        finally:
            self._began = time.perf_counter()
