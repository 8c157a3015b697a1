"""The workers of a search, as its supervisor sees them.

They are forked from one process that has imported what all of them need (`fork_server.py`): PyTorch and the others take
more than a second, and as many workers as there are cores would be at it at once. That process can be started before it
is known what is to be searched.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from genforge import ownership
from genforge.cores import THREADS_VARIABLE
from genforge.processes import Identity
from genforge.search.plan import Plan

SECONDS_TO_LEAVE = 4.0  # for a fork server, which gives its workers two of them
SECONDS_BETWEEN_LOOKS = 0.05
OF_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class _Worker:
    server: _ForkServer
    log: Path
    identity: Identity | None = None  # not known before the server has told it


class Crew:
    """Workers by their index, from 0. As a context manager: none of them is left at its end."""

    def __init__(self, objective: str, *, threads: int = 1) -> None:
        """Begin to import what workers need, in a process of its own.

        Args:
            objective: `module:function`, of the plans to come.
            threads: CPU threads of each worker.
        """
        self._threads, self._imports = threads, ["genforge.search.tickets", objective.partition(":")[0]]
        self._server = _ForkServer(threads, self._imports)
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def working(self) -> frozenset[int]:
        """Indices of those that have not been told as ended."""
        return frozenset(self._workers)

    def start(self, plan: Plan, folder: Path, index: int) -> None:
        """Have a worker run trials of the plan until none waits; what it says goes to its log in the search's
        folder."""
        if self._server.status() is not None:
            self._server.close()
            self._server = _ForkServer(self._threads, self._imports)
        self._workers[index] = _Worker(self._server, log_of(folder, index))
        self._server.order({"index": index, "plan": plan.model_dump(mode="json"), "folder": str(folder.resolve())})

    def ended(self) -> dict[int, int]:
        """The exit statuses of those that have ended since the last call, negative for a signal's number.

        Where the fork server has ended, its workers do so by themselves (`genforge.ownership`), with its status.
        """
        found: dict[int, int] = {}
        for index, worker in list(self._workers.items()):
            status = worker.server.status()  # before what it said last is read
            worker.server.listen()
            worker.identity = worker.server.forked.get(index, worker.identity)
            if index in worker.server.ended:
                found[index] = worker.server.ended.pop(index)
            elif status is not None and (worker.identity is None or worker.identity.is_gone()):
                found[index] = status
                with worker.log.open("ab") as log:
                    log.write(worker.server.said())
            else:
                continue
            worker.server.forked.pop(index, None)
            del self._workers[index]
        return found

    def close(self) -> None:
        """End all workers: kindly, then surely. A second call changes nothing."""
        self._server.close(at_once=not self._workers)
        deadline = time.monotonic() + SECONDS_TO_LEAVE
        while self._workers:
            self.ended()
            if time.monotonic() > deadline:
                for worker in self._workers.values():
                    assert worker.identity is not None
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.identity.pid, signal.SIGKILL)
            time.sleep(SECONDS_BETWEEN_LOOKS)


class _ForkServer:
    """One process that imports, and forks a worker for each order.

    forked: of each worker that it has told of, by index, which process it is. ended: the exit statuses it has told.
    """

    def __init__(self, threads: int, imports: list[str]) -> None:
        self.forked: dict[int, Identity | None] = {}
        self.ended: dict[int, int] = {}
        self._heard, self._said = b"", b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        one = dict.fromkeys(OF_THREADS, "1")  # what is forked must have no other; the workers take theirs
        environment = {**os.environ, **ownership.environment(), **one, THREADS_VARIABLE: str(threads)}
        # -P: a file in the user's folder must not stand in for a package.
        command = [sys.executable, "-P", "-m", "genforge.search.fork_server"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log, env=environment)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self.order({"imports": imports})

    def order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already: the next look sees that
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def listen(self) -> None:
        """Read what it has told."""
        assert self._process.stdout is not None
        while not self._process.stdout.closed and (read := self._process.stdout.read(65536)):
            self._heard += read
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "pid" in told:
                self.forked[told["index"]] = Identity.of(told["pid"])
            else:
                self.ended[told["index"]] = told["status"]

    def said(self) -> bytes:
        """What it wrote to standard error, such as why it could not import."""
        if not self._log.closed:
            self._log.seek(0)
            self._said = self._log.read()
        return self._said

    def close(self, *, at_once: bool = False) -> None:
        """End it, and its workers with it; `at_once` while it imports and would not look."""
        assert self._process.stdin is not None
        if at_once:
            self._process.terminate()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # which it takes for the end of us
        try:
            self._process.wait(SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.listen()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.said()
        self._log.close()


def log_of(folder: Path, index: int) -> Path:
    """What the worker said, and those that had its index before."""
    return folder / f"worker-{index}.log"
