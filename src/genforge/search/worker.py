"""One worker process of a search: claims trials and runs them until none waits.

The supervisor starts it with `python -m genforge.search.worker` and writes one line of JSON to its standard input: the
plan and the folder. The worker ends with the supervisor, by whatever end that came to (`genforge.ownership`), so
that no search leaves a trainer behind.
"""

from __future__ import annotations

import errno
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genforge.ownership import end_with_owner, stop_on_signals
from genforge.processes import Identity
from genforge.progress import say
from genforge.quick_start import without_collecting
from genforge.search.lease import SIGNS_A_LEASE, Signs
from genforge.search.plan import Lost, Plan, Pruned
from genforge.search.quick_import import REDIS, without

if TYPE_CHECKING:  # all that is large is imported in `main`
    from genforge.search.tickets import Tickets, Trial

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class OpenObjective(Protocol):
    """What `Plan.objective` names: called once in every worker, so that trials share what is loaded."""

    def __call__(self, arguments: Mapping[str, Any]) -> Callable[[Trial], float]: ...


def work(tickets: Tickets, objective: Callable[[Trial], float]) -> None:
    """Run trials until none waits.

    A trial that raises is a failed trial with the exception as its reason, and the search goes on: half of a space may
    be of no use. The traceback goes to standard error, the worker's log.

    Raises:
        Exception: the disk or the database failed, which is not the trial's fault: it stays for the next worker.
    """
    own = Identity.own()
    tickets.fill()
    while (trial := tickets.claim(own)) is not None:
        try:
            _run(tickets, trial, objective)
        except Lost as loss:
            say(f"trial {trial.number} is given up: {loss}")


def _run(tickets: Tickets, trial: Trial, objective: Callable[[Trial], float]) -> None:
    try:
        with Signs(lambda: tickets.sign(trial), every=tickets.plan.lease / SIGNS_A_LEASE):
            value = objective(trial)
    except Pruned:
        tickets.prune(trial)
    except Lost:
        raise
    except Exception as error:
        if _is_surroundings(error):
            raise
        traceback.print_exc()
        tickets.fail(trial, f"{type(error).__name__}: {error}")
    else:
        tickets.complete(trial, value)


def _is_surroundings(error: BaseException | None) -> bool:
    """Whether a full or broken disk, or the database, is behind this: other settings would fail as well."""
    from optuna.exceptions import StorageInternalError

    from genforge.search.patience import StorageAway

    while error is not None:
        if isinstance(error, StorageAway | StorageInternalError):
            return True
        if isinstance(error, OSError) and error.errno in _DISK:
            return True
        error = error.__cause__ or error.__context__
    return False


def main() -> None:
    end_with_owner()
    stop_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's; it sends SIGTERM
    job = json.loads(sys.stdin.readline())
    plan = Plan.model_validate(job["plan"])
    module, _, function = plan.objective.partition(":")
    with without_collecting():
        with without(REDIS):
            from genforge.search.tickets import Tickets
        open_objective: OpenObjective = getattr(importlib.import_module(module), function)
    work(Tickets(plan, Path(job["folder"]), wait=True), open_objective(plan.arguments))


if __name__ == "__main__":
    main()
