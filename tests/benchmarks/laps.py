"""How a contender is timed: wall seconds and processor seconds of laps of steps, alone or in turns with others.

A contender is a process of its own, because what makes a loop fast (memory that is kept, denormals, threads) belongs to
the process. With `--turns` it says on its standard output what it is, one line of JSON, and waits; for every number on
its standard input it makes as many steps and says what they took. So contenders that stand side by side never run
at once, and a machine that others use slows them alike. Processor seconds, user and system, of the process and of all
that it has started, count little of what others do.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import psutil


class Enough(Exception):
    """Nobody asks for more steps."""


def undecided() -> dict[str, str]:
    """The environment, without what says how many threads there are and how they wait for each other."""
    decided = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    return {name: value for name, value in os.environ.items() if name not in decided}


def processor_seconds() -> float:
    """User and system seconds of this process and of those that it has started, the ended ones too."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            of_child = child.cpu_times()
        except psutil.NoSuchProcess:  # it ended meanwhile, and is in `own`
            continue
        total += of_child.user + of_child.system
    return total


def peak_rss_mb() -> float:
    """Largest resident memory so far, in MiB: of this process, and of each that it has started, summed."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for child in psutil.Process().children(recursive=True):
        try:
            peak += child.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
    return peak


class Clock:
    """What laps took. `device`: a GPU's work is waited for at both ends of a lap."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.wall: list[float] = []  # seconds a step, of each lap
        self.processor: list[float] = []
        self._began: tuple[float, float] | None = None

    def start(self) -> None:
        self._wait()
        self._began = (time.perf_counter(), processor_seconds())

    def stop(self, steps: int) -> tuple[float, float]:
        """Seconds a step of the lap that ends here: wall, processor."""
        assert self._began is not None
        self._wait()
        wall, processor = time.perf_counter() - self._began[0], processor_seconds() - self._began[1]
        self.wall.append(wall / steps)
        self.processor.append(processor / steps)
        return self.wall[-1], self.processor[-1]

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self.device)


class Pace:
    """Told before every step (`step`), it times laps and decides when there were enough of them.

    Args:
        about: what the contender is: name, version, params_m, batch, updates and whatever else there is to say.
        device: cpu or cuda.
        laps: of `lap` steps each, after one of `warm` steps that is not counted; None: as standard input asks for.
    """

    def __init__(self, about: dict[str, Any], device: str, laps: int | None, lap: int = 1, warm: int = 3) -> None:
        self.about, self.clock = about, Clock(device)
        self._left, self._lap, self._warm = laps, lap, warm
        self._in_lap, self._size = 0, 0
        self._words: TextIO | None = None
        if laps is None:
            # Whatever else is printed goes where nobody takes it for an answer.
            self._words = os.fdopen(os.dup(1), "w")
            os.dup2(2, 1)
            self._say(about)

    def step(self) -> None:
        """A step begins; the one before has ended. Raises Enough when there is to be none."""
        if self._in_lap == self._size:
            if self._size:
                self._finish()
            self._size, self._in_lap = self._next(), 0
            self.clock.start()
        self._in_lap += 1

    def _finish(self) -> None:
        wall, processor = self.clock.stop(self._size)
        if self._words is not None:
            memory = {"peak_rss_mb": round(peak_rss_mb()), **self._on_gpu()}
            self._say({"steps": self._size, "wall": wall, "processor": processor, **memory})
        elif self._warm:
            self._warm = 0
            self.clock.wall.clear()
            self.clock.processor.clear()

    def _next(self) -> int:
        if self._left is None:
            line = sys.stdin.readline()
            if not line.strip():
                raise Enough
            return int(line)
        if self._warm:
            return self._warm
        if not self._left:
            raise Enough
        self._left -= 1
        return self._lap

    def _say(self, values: dict[str, Any]) -> None:
        assert self._words is not None
        self._words.write(json.dumps(values) + "\n")
        self._words.flush()

    def run(self, step: Callable[[], Any]) -> None:
        """Make steps for as long as there are to be any."""
        try:
            while True:
                self.step()
                step()
        except Enough:
            return

    def line(self) -> dict[str, Any]:
        """The line of JSON that a tool prints."""
        wall, batch = self.clock.wall, self.about["batch"]
        median = statistics.median(wall)
        return {
            **self.about,
            "s_per_step": round(median, 6),
            "s_min": round(min(wall), 6),
            "images_per_s": round(batch / median, 1),
            "processor_s_per_step": round(statistics.median(self.clock.processor), 6),
            "peak_rss_mb": round(peak_rss_mb()),
            **self._on_gpu(),
        }

    def _on_gpu(self) -> dict[str, Any]:
        if not self.clock.device.startswith("cuda"):
            return {}
        import torch

        found: dict[str, Any] = {"peak_cuda_mb": round(torch.cuda.max_memory_allocated(self.clock.device) / 2**20)}
        if "gflop" in self.about and self.clock.wall:
            found["tflops"] = round(self.about["gflop"] / 1e3 / statistics.median(self.clock.wall), 2)
        return found
