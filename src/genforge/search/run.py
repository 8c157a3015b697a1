"""The supervisor of a search: starts workers, replaces dead ones, and hands over what was found."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from genforge import ownership
from genforge.locks import alone
from genforge.progress import Bar
from genforge.search.plan import Found, Plan, Row
from genforge.search.tickets import Tickets
from genforge.search.worker import is_alive
from genforge.settings import UserError

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_LEAVE = 2.0
MOST_FAILED_STARTS = 3  # workers that ended with an error outside of any trial
MOST_DEATHS_IN_A_ROW = 50  # workers that were killed before any trial was finished meanwhile


def run_search(plan: Plan, folder: Path, *, workers: int, threads: int = 1) -> Found:
    """Bring every trial of the plan to its end, with what an earlier call left unfinished taken up first.

    Args:
        plan: what to search.
        folder: the search's state, kept between calls: journal, trials' folders, workers' logs. Its name should be a
            digest of everything that the values depend on besides the plan's number of trials, so that a search over
            other inputs begins anew.
        workers: processes, at least 1. With one, the same seed gives the same trials.
        threads: CPU threads of each.

    Raises:
        UserError: a default lies outside its range, another process runs this search, or no trial came to its end.
        RuntimeError: workers cannot start, or are killed again and again.
    """
    plan.check()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "supervisor.lock", f"search {plan.name}"):  # given back when its holder dies
        tickets = Tickets(plan, folder, create=True)
        tickets.reap(lambda worker: worker is None or not is_alive(worker))
        if tickets.count()["finished"] < plan.trials:
            _supervise(plan, folder, tickets, workers, threads)
        rows = tickets.rows()
        best = plan.best(rows)
        if best is None:
            raise UserError(_nothing_found(plan, folder, rows))
        importances, note = tickets.importances()
        return Found(rows, best, importances, note)


def _supervise(plan: Plan, folder: Path, tickets: Tickets, workers: int, threads: int) -> None:
    """Keep as many workers at work as there is work for, until every trial is finished."""
    crew: dict[int, subprocess.Popen[bytes]] = {}
    failed_starts, deaths, finished = 0, 0, tickets.count()["finished"]
    try:
        with Bar(f"searching {plan.name}", plan.trials, "trials") as bar:
            bar.advance(finished, _best_so_far(plan, tickets))
            while True:
                for index in [index for index, worker in crew.items() if worker.poll() is not None]:
                    code = crew.pop(index).returncode
                    lost = tickets.reap(lambda worker: worker is not None and not is_alive(worker))
                    failed_starts += code > 0 and not lost
                    deaths += code != 0
                    if failed_starts >= MOST_FAILED_STARTS or deaths >= MOST_DEATHS_IN_A_ROW:
                        raise RuntimeError(_workers_fail(folder, index, code))
                if not crew:  # then a trial that was claimed and not yet signed lost its worker in that very moment
                    tickets.reap(lambda worker: worker is None or not is_alive(worker))
                count = tickets.count()
                if count["finished"] > finished:
                    bar.advance(count["finished"] - finished, _best_so_far(plan, tickets))
                    finished, deaths = count["finished"], 0
                    _drop_finished_folders(folder, tickets)
                if finished == plan.trials:
                    return
                wanted = min(workers, count["waiting"] + count["running"])
                for index in range(workers):
                    if index not in crew and len(crew) < wanted and count["waiting"]:
                        crew[index] = _start(plan, folder, index, threads)
                time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        _dismiss(crew)
        tickets.reap(lambda worker: worker is None or not is_alive(worker))
        _drop_finished_folders(folder, tickets)


def _start(plan: Plan, folder: Path, index: int, threads: int) -> subprocess.Popen[bytes]:
    threading = {"OMP_NUM_THREADS": str(threads), "GENFORGE_THREADS": str(threads)}
    environment = {**os.environ, **ownership.environment(), **threading}
    # -P: a file in the user's folder must not stand in for a package.
    command = [sys.executable, "-P", "-m", "genforge.search.worker"]
    with _log(folder, index).open("ab") as log:
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    assert worker.stdin is not None
    job = {"plan": plan.model_dump(mode="json"), "folder": str(folder.resolve())}
    with contextlib.suppress(BrokenPipeError):  # it died already: the next look sees that
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        worker.stdin.close()
    return worker


def _dismiss(crew: dict[int, subprocess.Popen[bytes]]) -> None:
    """Ask the workers to end, and make sure that they have."""
    for worker in crew.values():
        worker.terminate()
    deadline = time.monotonic() + SECONDS_TO_LEAVE
    for worker in crew.values():
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _drop_finished_folders(folder: Path, tickets: Tickets) -> None:
    """A finished trial's checkpoints are of no more use."""
    for row in tickets.rows():
        shutil.rmtree(folder / f"trial-{row.number}", ignore_errors=True)


def _best_so_far(plan: Plan, tickets: Tickets) -> str:
    best = plan.best(tickets.rows())
    return f"best so far {best.value:.4g}" if best is not None and best.value is not None else ""


def _log(folder: Path, index: int) -> Path:
    return folder / f"worker-{index}.log"


def _nothing_found(plan: Plan, folder: Path, rows: list[Row]) -> str:
    reasons = "\n".join(f"  trial {row.number}: {row.reason or row.state}" for row in rows)
    return f"the search of {plan.name} found nothing: none of its {plan.trials} trials came to its end\n{reasons}\n" + (
        f"the workers' logs are in {folder}"
    )


def _workers_fail(folder: Path, index: int, code: int) -> str:
    end = f"signal {-code}" if code < 0 else f"exit status {code}"
    tail = "\n".join(_log(folder, index).read_text(errors="replace").splitlines()[-15:])
    return f"the search's workers keep failing; the last one ended by {end}. The end of its log:\n{tail}"
