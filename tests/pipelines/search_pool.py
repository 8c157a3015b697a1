"""A search by two machines on the servers of `make servers`: a part of their story, in test_servers.py.

A machine is a worker of the work pool that takes one run at a time. What tells two of them apart on one computer is the
process of the worker, and the workplace that its run works in.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from unittest import mock

import psutil
import yaml
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from genforge import ownership
from genforge.processes import words_of
from genforge.search.storage import open_existing_database
from tests.pipelines import small_project

if TYPE_CHECKING:
    from tests.pipelines.test_servers import Set

RECIPE, BRANCH = "ddpm", "wider-search"
TRIALS = 3
SEARCH = {"trials": TRIALS, "workers": 1, "reports": 2, "images": 50, "steps_share": 0.25}


def search_by_two_machines(servers: Set) -> None:
    """Adding a machine is starting a worker; a worker process that is killed in the middle of a trial costs nothing."""
    commit = _commit_with_a_search(servers)
    with mock.patch.dict(os.environ, servers.environment):
        servers.run(sys.executable, "-m", "pipelines.search_worker", RECIPE, "--workers", "2", "--commit", commit)

        # One machine, which takes one run: the other run waits. Its trial is held, so that it does not end before.
        database: BaseStorage = servers.wait_until(open_existing_database)
        held, holder = servers.wait_until(lambda: _hold_a_trial(database))
        runs = [run for run in servers.flow_runs() if run["parameters"].get("commit") == commit]
        assert sorted(run["state_type"] for run in runs) == ["RUNNING", "SCHEDULED"]

        # Another machine is added, and takes part.
        another = _start_worker(servers)
        try:
            servers.wait_until(lambda: [trial for trial in _signed(database) if _worker_of(trial) != holder.pid])
            ours, theirs = sorted(_searches(), key=lambda search: _machine_of(search) == another.pid)
            assert _machine_of(ours) == _machine_of(holder) and _machine_of(theirs) == another.pid
            assert ours.cwd() != theirs.cwd()

            # The process that works on the first trial is killed. Both runs complete all the same.
            holder.kill()
            for run in runs:
                servers.wait_until(functools.partial(servers.ended, run["id"]))
        finally:
            another.terminate()
            another.wait()

        # One study; as many trials as were asked for, each finished once, beside the attempt that failed.
        trials = _trials(database)
        assert [trial.number for trial in trials if trial.state == TrialState.FAIL] == [held.number]
        finished = sorted(trial.user_attrs["ticket"] for trial in trials if trial.number != held.number)
        assert finished == list(range(TRIALS)) and all(trial.state.is_finished() for trial in trials)
        (again,) = [trial for trial in trials if trial.user_attrs["attempt"] == 1]
        assert again.user_attrs["ticket"] == held.user_attrs["ticket"]


def _commit_with_a_search(servers: Set) -> str:
    """A commit that has the lock of the last retraining, and settings that ask for trials; on a branch of its own."""
    (branch,) = servers.run("git", "branch", "--list", "genforge/retrain-*", "--format=%(refname:short)").split()
    aside = servers.folder.with_name("aside")
    servers.run("git", "worktree", "add", "--quiet", "-b", BRANCH, str(aside), branch)
    params = aside / "params.yaml"
    params.write_text(yaml.safe_dump({**yaml.safe_load(params.read_text()), "search": SEARCH}))
    small_project.commit(aside, "look further")
    return servers.run("git", "rev-parse", BRANCH).strip()


def _start_worker(servers: Set) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--name", "another", "--limit", "1"]
    own: Mapping[str, str] = {**servers.environment, **ownership.environment(), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (servers.state / "another.log").open("wb") as log:
        return subprocess.Popen(command, cwd=servers.folder, env=own, stdout=log, stderr=log, start_new_session=True)


def _hold_a_trial(database: BaseStorage) -> tuple[FrozenTrial, psutil.Process] | None:
    """A trial that has begun, and its process, which stands still from now on; None while there is none."""
    for _ in range(5):
        for trial in _running(database):
            process = psutil.Process(_worker_of(trial))
            process.suspend()
            if any(still.number == trial.number for still in _running(database)):
                return trial, process
            process.resume()  # it was at its end
        time.sleep(0.1)
    return None


def _searches() -> list[psutil.Process]:
    """The processes that supervise the search, one a machine."""
    family = psutil.Process().children(recursive=True)
    return [process for process in family if words_of(process.pid)[-3:] == ["step", "search", RECIPE]]


def _machine_of(process: psutil.Process) -> int:
    """The pid of the worker of the pool that a process works for."""
    return next(parent.pid for parent in process.parents() if {"worker", "start"} <= set(words_of(parent.pid)))


def _running(database: BaseStorage) -> list[FrozenTrial]:
    return [trial for trial in _signed(database) if trial.state == TrialState.RUNNING]


def _signed(database: BaseStorage) -> list[FrozenTrial]:
    """Trials that some worker has begun."""
    return [trial for trial in _trials(database) if "worker" in trial.user_attrs]


def _worker_of(trial: FrozenTrial) -> int:
    """The pid of the process that has begun a trial."""
    return int(trial.user_attrs["worker"]["pid"])


def _trials(database: BaseStorage) -> list[FrozenTrial]:
    """Every attempt at a trial, of the one study that there is."""
    return [trial for study in database.get_all_studies() for trial in database.get_all_trials(study._study_id)]
