"""Many files decoded by several processes.

The processes are started afresh and import Pillow, never torch: they are at work within a tenth of a second, whatever
the program that asks for them has loaded. One thread waits for each. A file that ends its process (a decoder is C code)
is found out by decoding its chunk again, one file at a time, and goes to quarantine like any other broken one.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import chain
from typing import Self

from genforge.data.decoding import CRASHED, TOO_SLOW
from genforge.data.decoding_worker import FACTS, Columns, Job, receive, send

CHUNK = 256  # files a task: large enough that handing it over costs nothing, small enough to share out evenly


def decode_all(job: Job, paths: Sequence[str], processes: int) -> Iterator[tuple[int, Columns]]:
    """As `Decoders.decode`, by processes that do nothing else."""
    with Decoders(processes) as decoders:
        yield from decoders.decode(job, paths)


class Decoders:
    """So many processes, started at once and ended with the block."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        for _ in range(self._processes):
            self._idle.put(_Worker())
        return self

    def __exit__(self, *failure: object) -> None:
        alive = [worker for _ in range(self._processes) if (worker := self._idle.get())]
        for worker in alive:
            worker.dismiss()
        for worker in alive:
            worker.wait()

    def decode(self, job: Job, paths: Sequence[str]) -> Iterator[tuple[int, Columns]]:
        """Facts about all files in chunks, each with the number of its first file, in the order in which they are done.

        Raises:
            RuntimeError: a worker does not start, or fails by no fault of a file (a full disk); with what it said.
        """
        with ThreadPoolExecutor(self._processes) as threads:
            waiting = {
                threads.submit(self._chunk, job, start, list(paths[start : start + CHUNK])): start
                for start in range(0, len(paths), CHUNK)
            }
            try:
                for done in as_completed(waiting):
                    yield waiting[done], done.result()
            finally:
                threads.shutdown(cancel_futures=True)

    def _chunk(self, job: Job, start: int, paths: list[str]) -> Columns:
        """Facts about some files, of which the first has the number `start`."""
        worker = self._idle.get()
        try:
            worker = worker or _Worker()
            return worker.work(job, start, paths)
        except _DiedError:
            singles: list[Columns] = []
            for place, path in enumerate(paths):
                try:
                    worker = worker if worker and worker.alive else _Worker()
                    singles.append(worker.work(job, start + place, [path]))
                except _DiedError as death:
                    nothing = {
                        "bytes": 0,
                        "width": 0,
                        "height": 0,
                        "mode": "",
                        "reason": death.reason,
                        "detail": str(death),
                    }
                    singles.append([(nothing.get(fact, b""),) for fact in FACTS])
            return [tuple(chain.from_iterable(column)) for column in zip(*singles, strict=True)]
        finally:
            self._idle.put(worker if worker and worker.alive else None)


class _DiedError(Exception):
    """A worker ended in the middle of its work; the text says how."""

    reason = CRASHED


class _TooSlowError(_DiedError):
    """It was ended by its own clock."""

    reason = TOO_SLOW


class _Worker:
    """One process, and the two pipes to it."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "genforge.data.decoding_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout

    @property
    def alive(self) -> bool:
        return not self._said.closed

    def work(self, job: Job, start: int, paths: list[str]) -> Columns:
        """Facts about the files. Raises _DiedError when one of them ended the process."""
        self._begin(job)
        try:
            send(self._to, (start, paths))
            return receive(self._from)
        except (EOFError, BrokenPipeError):
            code, words = self._process.wait(), self._last_words()
            if code > 0:  # an exception of Python, which no file can cause: a full disk, or a fault of ours
                raise RuntimeError(f"a process that decodes images failed: {words}") from None
            if -code in (signal.SIGPROF, signal.SIGALRM):
                raise _TooSlowError(f"took longer than {job.rules.max_seconds} s") from None
            raise _DiedError(f"ended its process by signal {-code}") from None

    def _begin(self, job: Job) -> None:
        """Tell the process its job, where it has another one or none."""
        if self._job == job:
            return
        try:
            send(self._to, (job.folder, tuple(job.rules), job.seed, job.scratch))
            receive(self._from)
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"a process that decodes images does not start: {self._last_words()}") from None
        self._job = job

    def dismiss(self) -> None:
        """Let the process end. Nothing is under way in it."""
        self._to.close()

    def wait(self) -> None:
        """Wait for the end of a process that was dismissed."""
        self._process.wait()
        self._from.close()
        self._said.close()

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip()
        self._said.close()
        return words or f"exit code {self._process.returncode}"
