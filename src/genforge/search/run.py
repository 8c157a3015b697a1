"""The supervisor of a search: starts workers, replaces dead ones, and hands over what was found."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from pathlib import Path

from genforge.locks import alone
from genforge.progress import Bar
from genforge.search.crew import Crew, log_of
from genforge.search.lease import Watch
from genforge.search.patience import STORAGE_VARIABLE, StorageAway
from genforge.search.plan import Found, Plan, Row
from genforge.search.tickets import Tickets, trial_folders
from genforge.settings import UserError

SECONDS_BETWEEN_LOOKS = 0.2  # at the workers
SECONDS_BETWEEN_READS = 1.0  # of the study
SECONDS_TO_LEAVE = 2.0
MOST_FAILURES = 3  # workers that ended with an error that is no trial's: they cannot start, or the disk is full
TERMINATED = 128 + signal.SIGTERM  # what a worker gives that was asked to end
MOST_DEATHS_IN_A_ROW = 50  # workers that were killed before any trial got further meanwhile


def run_search(plan: Plan, folder: Path, *, workers: int, threads: int = 1, crew: Crew | None = None) -> Found:
    """Bring every trial of the plan to its end, with what an earlier call left unfinished taken up first.

    Args:
        plan: what to search.
        folder: the search's state, kept between calls: journal, trials' folders, workers' logs. Its name should be a
            digest of everything that the values depend on besides the plan's number of trials, so that a search over
            other inputs begins anew.
        workers: processes, at least 1. With one, the same seed gives the same trials.
        threads: CPU threads of each.
        crew: what the workers come from, where it was started before, for it imports meanwhile; `threads` says nothing
            then. None of them is left at the end.

    Raises:
        UserError: a default lies outside its range, another process runs this search, or no trial came to its end.
        RuntimeError: workers cannot start, or are killed again and again.
    """
    plan.check()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(supervisor_lock(folder), f"search {plan.name}"):  # given back when its holder dies
        tickets = Tickets(plan, folder)
        watch = Watch(plan.lease)
        tickets.reap(watch)
        if tickets.count()["finished"] < plan.trials:
            if crew is None:
                crew = Crew(plan.objective, threads=threads)
            _supervise(plan, folder, tickets, watch, workers, crew)
        rows = tickets.rows()
        best = plan.best(rows)
        if best is None:
            raise UserError(_nothing_found(plan, folder, rows))
        importances, note = tickets.importances()
        return Found(rows, best, importances, note)


def _supervise(plan: Plan, folder: Path, tickets: Tickets, watch: Watch, workers: int, crew: Crew) -> None:
    """Keep as many workers at work as there is work for, until every trial is finished, here or on another machine."""
    failures, deaths, finished = 0, 0, tickets.count()["finished"]
    read = 0.0
    try:
        with Bar(f"searching {plan.name}", plan.trials, "trials") as bar:
            bar.advance(finished, _best_so_far(plan, tickets))
            while True:
                ended = crew.ended()
                if ended or time.monotonic() - read >= SECONDS_BETWEEN_READS:
                    losses = tickets.reap(watch)
                    count = tickets.count()
                    read = time.monotonic()
                    if count["finished"] > finished:
                        bar.advance(count["finished"] - finished, _best_so_far(plan, tickets))
                        _drop_finished_folders(folder, tickets)
                    if count["finished"] > finished or any(loss.progressed for loss in losses):
                        finished, failures, deaths = count["finished"], 0, 0
                    if finished == plan.trials:
                        return
                    wanted = min(workers, count["waiting"] + count["running"])
                    for index in range(workers):
                        if index not in crew.working and len(crew.working) < wanted and count["waiting"]:
                            crew.start(plan, folder, index)
                for index, code in ended.items():
                    failures += code > 0 and code != TERMINATED
                    deaths += code != 0
                    if failures >= MOST_FAILURES or deaths >= MOST_DEATHS_IN_A_ROW:
                        raise RuntimeError(_workers_fail(folder, index, code))
                time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        crew.close()
        _leave(folder, tickets)


def _leave(folder: Path, tickets: Tickets) -> None:
    """Nobody of ours works any more: no trial stays RUNNING. A database that is away is left to the next call."""
    tickets.store.patience.seconds = SECONDS_TO_LEAVE
    with contextlib.suppress(StorageAway):
        tickets.reap(Watch(tickets.plan.lease, to_sign=0.0))
        _drop_finished_folders(folder, tickets)


def supervisor_lock(folder: Path) -> Path:
    """Held by the supervisor that works in the folder of a search: one a folder, or with a database one a folder and
    machine."""
    machine = f"-{socket.gethostname()}" if os.environ.get(STORAGE_VARIABLE) else ""
    return folder / f"supervisor{machine}.lock"


def _drop_finished_folders(folder: Path, tickets: Tickets) -> None:
    """A finished trial's checkpoints are of no more use."""
    for row in tickets.rows():
        for path in trial_folders(folder, row.number):
            shutil.rmtree(path, ignore_errors=True)


def _best_so_far(plan: Plan, tickets: Tickets) -> str:
    best = plan.best(tickets.rows())
    return f"best so far {best.value:.4g}" if best is not None and best.value is not None else ""


def _nothing_found(plan: Plan, folder: Path, rows: list[Row]) -> str:
    reasons = "\n".join(f"  trial {row.number}: {row.reason or row.state}" for row in rows)
    return f"the search of {plan.name} found nothing: none of its {plan.trials} trials came to its end\n{reasons}\n" + (
        f"the workers' logs are in {folder}"
    )


def _workers_fail(folder: Path, index: int, code: int) -> str:
    end = f"signal {-code}" if code < 0 else f"exit status {code}"
    tail = "\n".join(log_of(folder, index).read_text(errors="replace").splitlines()[-15:])
    return f"the search's workers keep failing; the last one ended by {end}. The end of its log:\n{tail}"
