"""The process that the workers of a search are forked from, once it has imported what all of them need.

It starts no thread and touches no GPU, so that what is forked is whole. The supervisor starts it (`crew.py`) with
`python -m genforge.search.fork_server` and writes lines of JSON to its standard input: first the modules to import,
then an order for each worker, with the plan and the folder. It answers on its standard output: a line when a worker was
forked, and one when it has ended. When its input ends, as it does with the supervisor, it ends its workers and itself.

Beside the workers it forks a process that makes their suggestions, where those want SciPy (`suggester.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from genforge.cores import THREADS_VARIABLE
from genforge.ownership import end_with_owner, stop_on_signals
from genforge.quick_start import without_collecting
from genforge.search.crew import OF_THREADS, log_of
from genforge.search.plan import Plan
from genforge.search.quick_import import REDIS, without
from genforge.search.suggester import Line
from genforge.search.worker import suggest_for_others, work_on

SECONDS_BETWEEN_LOOKS = 0.1  # at the workers
SECONDS_TO_LEAVE = 2.0  # for workers, from SIGTERM to SIGKILL
MOST_SUGGESTERS = 3  # then the workers suggest by themselves
_SUGGESTER = -1  # in place of a worker's index
_STOPPING = (signal.SIGTERM, signal.SIGHUP)


class ForkServer:
    """Forks, tells of it, and sees to the end of what it forked."""

    def __init__(self) -> None:
        self._children: dict[int, int] = {}  # the index of each by its process's id
        self._line: Line | None = None  # to the suggester
        self._suggest: Callable[[], None] | None = None  # what the suggester does
        self._suggester_of = Path()  # the folder of the search
        self._suggesters = 0

    def serve(self, orders: Iterator[dict[str, Any] | None]) -> None:
        """Follow orders until there are no more, and leave nobody behind."""
        try:
            for order in orders:
                self._reap()
                if order is not None:
                    self._fork_worker(order["index"], Plan.model_validate(order["plan"]), Path(order["folder"]))
        finally:
            self._end()

    def _fork_worker(self, index: int, plan: Plan, folder: Path) -> None:
        if self._suggesters == 0 and plan.wants_scipy(plan.trials - 1):
            self._line, self._suggester_of = Line(), folder
            self._suggest = partial(suggest_for_others, plan, folder, self._line)
            self._fork_suggester()
        line = self._line if folder == self._suggester_of else None
        self._fork(index, log_of(folder, index), partial(work_on, plan, folder, line))

    def _fork_suggester(self) -> None:
        assert self._suggest is not None
        self._suggesters += 1
        self._fork(_SUGGESTER, self._suggester_of / "suggester.log", self._suggest)

    def _fork(self, index: int, log: Path, role: Callable[[], None]) -> None:
        # A signal that came in between would have the child end as if it were this process.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        process = os.fork()
        if process == 0:
            _become(log, role)
        self._children[process] = index
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        if index != _SUGGESTER:
            _tell({"index": index, "pid": process})

    def _reap(self) -> None:
        """Tell of those that have ended. A suggester is replaced, for a while."""
        while self._children:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            index = self._children.pop(process)
            if index != _SUGGESTER:
                _tell({"index": index, "status": os.waitstatus_to_exitcode(status)})
            elif self._line is not None:
                if self._suggesters < MOST_SUGGESTERS:
                    self._fork_suggester()
                else:
                    self._line.close()
                    self._line = None

    def _end(self) -> None:
        """End all that were forked: kindly, then surely."""
        self._line = None  # nobody suggests any more
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)  # a second one would break this off
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for process in self._children:
                os.kill(process, sent)  # nobody else has its id: it was not asked for its status yet
            deadline = time.monotonic() + SECONDS_TO_LEAVE
            while self._children and time.monotonic() < deadline:
                self._reap()
                time.sleep(SECONDS_BETWEEN_LOOKS / 10)


def _become(log: Path, role: Callable[[], None]) -> NoReturn:
    """Be another process, which says what it says in its log and hears nothing."""
    status = 1
    try:
        said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((0, nothing), (1, said), (2, said)):
            os.dup2(theirs, ours)
        os.close(said)
        os.close(nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        os.environ.update(dict.fromkeys(OF_THREADS, os.environ[THREADS_VARIABLE]))
        end_with_owner()
        role()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)  # this process's own ending is not the child's


def _tell(told: dict[str, int]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor has gone, and so does this process
        os.write(1, json.dumps(told).encode() + b"\n")


def _orders() -> Iterator[dict[str, Any] | None]:
    """Lines of standard input, until it ends; None now and then while there is none."""
    heard = b""
    while True:
        if not select.select([0], [], [], SECONDS_BETWEEN_LOOKS)[0]:
            yield None
        elif more := os.read(0, 65536):
            *lines, heard = (heard + more).split(b"\n")
            yield from map(json.loads, lines)
        else:
            return


def main() -> None:
    stop_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's; it sees to its workers
    orders = _orders()
    imports: list[str] = next((order["imports"] for order in orders if order is not None), [])
    with without_collecting(), without(REDIS):
        for module in imports:
            importlib.import_module(module)
    ForkServer().serve(orders)


if __name__ == "__main__":
    main()
