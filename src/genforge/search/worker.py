"""One worker process of a search: claims trials and runs them until none waits.

The supervisor starts it with `python -m genforge.search.worker` and writes one line of JSON to its standard input: the
plan and the folder. The worker ends with the supervisor, by whatever end that came to (`genforge.ownership`), so
that no search leaves a trainer behind.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

from genforge.ownership import end_with_owner, stop_on_signals
from genforge.search.plan import Plan, Pruned
from genforge.search.tickets import Tickets, Trial


class OpenObjective(Protocol):
    """What `Plan.objective` names: called once in every worker, so that trials share what is loaded."""

    def __call__(self, arguments: Mapping[str, Any]) -> Callable[[Trial], float]: ...


def worker_name(pid: int) -> str:
    """A name that no other process has or will have: host, process number and the moment of its start."""
    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def is_alive(worker: str) -> bool:
    """Whether the worker of this name still runs. A worker of another host is taken to be alive."""
    host, pid, started = worker.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - float(started)) < 5.0  # the kernel's idea of the start moves with the clock
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def work(tickets: Tickets, objective: Callable[[Trial], float]) -> None:
    """Run trials until none waits.

    A trial that raises is a failed trial with the exception as its reason, and the search goes on: half of a space may
    be of no use. The traceback goes to standard error, the worker's log.
    """
    name = worker_name(os.getpid())
    while (trial := tickets.claim(name)) is not None:
        try:
            value = objective(trial)
        except Pruned:
            tickets.prune(trial)
        except Exception as error:
            traceback.print_exc()
            tickets.fail(trial, f"{type(error).__name__}: {error}")
        else:
            tickets.complete(trial, value)


def main() -> None:
    end_with_owner()
    stop_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's; it sends SIGTERM
    job = json.loads(sys.stdin.readline())
    plan = Plan.model_validate(job["plan"])
    tickets = Tickets(plan, Path(job["folder"]))
    module, _, function = plan.objective.partition(":")
    open_objective: OpenObjective = getattr(importlib.import_module(module), function)
    work(tickets, open_objective(plan.arguments))


if __name__ == "__main__":
    main()
