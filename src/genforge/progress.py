"""Progress for long work: a bar on a terminal, plain lines where there is none.

Under a flow many steps share one screen. The flow names a file in `GENFORGE_PROGRESS`; each step then appends its
lines there as JSON, and the flow alone draws.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

SECONDS_BETWEEN_LINES = 10.0  # on a screen that is no terminal
SECONDS_BETWEEN_FRAMES = 0.1  # on a terminal
SECONDS_BETWEEN_REPORTS = 0.25  # to a flow
CHANNEL = "GENFORGE_PROGRESS"
PIPED_COLUMNS = 160  # of tables where no terminal says how wide: a leaderboard with likelihoods keeps a line a row

T = TypeVar("T")


class Bar:
    """Progress of one piece of work, as a context manager.

    Args:
        title: what is being done, such as `training gan`.
        total: how many units there are, or None when that is not known.
        unit: what is counted.
    """

    def __init__(self, title: str, total: int | None = None, unit: str = "steps") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._note = ""
        self._said: tuple[int, str] | None = None  # how far it was, and what was beside it, in the last line
        self._rich: Any = None

    def __enter__(self) -> Self:
        self._began = self._spoke = self._reported = time.monotonic()
        if CHANNEL not in os.environ and sys.stderr.isatty():
            self._rich = terminal_bars()
            self._rich.start()
            self._task = self._rich.add_task(self.title, total=self.total, note="")
        return self

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units as done; `note` is shown beside the bar until the next one."""
        self.done += count
        if note is not None:
            self._note = note
        now = time.monotonic()
        if self._rich is not None:
            if now - self._reported >= SECONDS_BETWEEN_FRAMES:  # an update costs as much as a small training step
                self._reported = now
                self._rich.update(self._task, completed=self.done, note=self._note)
        elif now - self._spoke >= SECONDS_BETWEEN_LINES:
            self._spoke = now
            self._say()
        elif now - self._reported >= SECONDS_BETWEEN_REPORTS:
            self._reported = now
            self._report()

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if self._rich is not None:
            self._rich.stop()
        if kind is None:
            self._say()

    def _say(self) -> None:
        if self._said == (self.done, self._note):
            return  # the last step was told when it was done, and would be told again at the end
        self._said = (self.done, self._note)
        of = f"/{self.total}" if self.total else ""
        seconds = time.monotonic() - self._began
        left = ""
        if self.total and 0 < self.done < self.total:
            left = f", {seconds / self.done * (self.total - self.done):.0f} s left"
        note = f"  {self._note}" if self._note else ""
        self._report(f"{self.title}: {self.done}{of} {self.unit}, {seconds:.0f} s{left}{note}")

    def _report(self, text: str | None = None) -> None:
        if CHANNEL in os.environ:
            _send({"title": self.title, "done": self.done, "total": self.total, "note": self._note, "text": text})
        elif text is not None:
            print(text, file=sys.stderr, flush=True)


def track(items: Iterable[T], title: str, total: int | None = None, unit: str = "items") -> Iterator[T]:
    """The items of `items`, with their progress shown."""
    with Bar(title, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def say(text: str) -> None:
    """One plain line for the person who watches, on standard error: standard output is for results."""
    if CHANNEL in os.environ:
        _send({"text": text})
    else:
        print(text, file=sys.stderr, flush=True)


def terminal_bars() -> Any:
    """Bars of rich, on standard error, that vanish when they end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )


def _send(message: dict[str, Any]) -> None:
    """Append one line to the flow's file: a single write, so that lines of several processes never mix."""
    line = json.dumps(message) + "\n"
    with Path(os.environ[CHANNEL]).open("a", encoding="utf-8") as file:
        file.write(line)
