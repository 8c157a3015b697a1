"""One worker process of a search: claims trials and runs them until none waits.

It is forked (`fork_server.py`), and ends with the supervisor, by whatever end that came to (`genforge.ownership`), so
that no search leaves a trainer behind.
"""

from __future__ import annotations

import errno
import importlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genforge.processes import Identity
from genforge.progress import say
from genforge.search.lease import SIGNS_A_LEASE, Signs
from genforge.search.plan import Lost, Plan, Pruned

if TYPE_CHECKING:
    from genforge.search.suggester import Line
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


def work_on(plan: Plan, folder: Path, line: Line | None) -> None:
    """Be a worker of this plan. Its suggestions are made by whoever hears at the other end of the line, if there is
    one."""
    from genforge.search.tickets import Tickets

    module, _, function = plan.objective.partition(":")
    open_objective: OpenObjective = getattr(importlib.import_module(module), function)
    if line is not None:
        line.only_ask()
    tickets = Tickets(plan, folder, wait=True, ask=None if line is None else line.ask)
    work(tickets, open_objective(plan.arguments))


def suggest_for_others(plan: Plan, folder: Path, line: Line) -> None:
    """Be the one that makes the workers' suggestions."""
    from genforge.search.suggester import serve
    from genforge.search.tickets import Tickets

    line.only_hear()
    serve(line, Tickets(plan, folder, wait=True))
