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

from genforge.data.decoding import CRASHED, TOO_SLOW
from genforge.data.decoding_worker import FACTS, Columns, Job, receive, send
from genforge.ownership import environment

CHUNK = 256  # files a task: large enough that handing it over costs nothing, small enough to share out evenly


def usable_processes() -> int:
    """As many as there are cores for us: `GENFORGE_THREADS` where it is set, else all that this process may use."""
    threads = os.environ.get("GENFORGE_THREADS")
    return max(1, int(threads)) if threads else len(os.sched_getaffinity(0))


def decode_all(job: Job, paths: Sequence[str], processes: int) -> Iterator[tuple[int, Columns]]:
    """Facts about all files in chunks, each with the number of its first file, in the order in which they are done.

    Raises:
        RuntimeError: a worker does not start, or fails by no fault of a file (a full disk); with what it said.
    """
    idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
    for _ in range(processes):
        idle.put(None)

    def decode(start: int) -> Columns:
        worker = idle.get()
        chunk = list(paths[start : start + CHUNK])
        try:
            worker = worker or _Worker(job)
            return worker.work(start, chunk)
        except _DiedError:
            singles: list[Columns] = []
            for place, path in enumerate(chunk):
                try:
                    worker = worker if worker and worker.alive else _Worker(job)
                    singles.append(worker.work(start + place, [path]))
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
            idle.put(worker if worker and worker.alive else None)

    with ThreadPoolExecutor(processes) as threads:
        waiting = {threads.submit(decode, start): start for start in range(0, len(paths), CHUNK)}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            threads.shutdown(cancel_futures=True)
            alive = [worker for _ in range(processes) if (worker := idle.get())]
            for worker in alive:
                worker.dismiss()
            for worker in alive:
                worker.wait()


class _DiedError(Exception):
    """A worker ended in the middle of its work; the text says how."""

    reason = CRASHED


class _TooSlowError(_DiedError):
    """It was ended by its own clock."""

    reason = TOO_SLOW


class _Worker:
    """One process, and the two pipes to it."""

    def __init__(self, job: Job) -> None:
        self._seconds = job.rules.max_seconds
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "genforge.data.decoding_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **environment(), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            send(self._to, (job.folder, tuple(job.rules), job.seed, job.scratch))
            receive(self._from)
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"a process that decodes images does not start: {self._last_words()}") from None

    @property
    def alive(self) -> bool:
        return not self._said.closed

    def work(self, start: int, paths: list[str]) -> Columns:
        """Facts about the files. Raises _DiedError when one of them ended the process."""
        try:
            send(self._to, (start, paths))
            return receive(self._from)
        except (EOFError, BrokenPipeError):
            code, words = self._process.wait(), self._last_words()
            if code > 0:  # an exception of Python, which no file can cause: a full disk, or a fault of ours
                raise RuntimeError(f"a process that decodes images failed: {words}") from None
            if -code in (signal.SIGPROF, signal.SIGALRM):
                raise _TooSlowError(f"took longer than {self._seconds} s") from None
            raise _DiedError(f"ended its process by signal {-code}") from None

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
