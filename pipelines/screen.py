"""One screen for many stages: a bar for each running one on a terminal, plain lines with its name elsewhere."""

from __future__ import annotations

import sys
import threading
from typing import Any, Self

from rich.markup import escape

from genforge.progress import terminal_bars


class Screen:
    """What the flow shows while it runs. Its methods may be called from any thread."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._lock = threading.Lock()
        self._bars = terminal_bars() if sys.stderr.isatty() else None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
            self._overall = self._bars.add_task("[bold]pipeline", total=self.total, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def started(self, stage: str) -> None:
        with self._lock:
            if self._bars is not None:
                self._tasks[stage] = self._bars.add_task(stage, total=None, note="")

    def message(self, stage: str, message: dict[str, Any]) -> None:
        """A step's message: see `genforge.progress`."""
        with self._lock:
            if self._bars is not None and "title" in message and stage in self._tasks:
                note = escape(str(message["note"]))
                self._bars.update(self._tasks[stage], completed=message["done"], total=message["total"], note=note)
            elif message.get("text"):
                self._line(f"{stage}: {message['text'].removeprefix(f'{stage}: ')}")

    def ended(self, stage: str, seconds: float, problem: str | None = None) -> None:
        with self._lock:
            self.done += 1
            self._line(f"[{self.done}/{self.total}] {stage}: {problem or 'done'}, {seconds:.0f} s")
            if self._bars is not None:
                self._bars.remove_task(self._tasks.pop(stage))
                self._bars.update(self._overall, completed=self.done)

    def _line(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
