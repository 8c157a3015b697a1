"""Several processes for one training: the step is the first of them and starts the others (`processes` in params.yaml).

Whoever spreads a training over machines starts the step with `torchrun` instead, and every process finds its peers in
the environment (`genforge.parallel`). Both come to the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from genforge import ownership, parallel, slots
from genforge.cores import THREADS_VARIABLE, cores
from genforge.locks import alone
from genforge.parallel import Meeting, Peers, meeting
from genforge.settings import UserError
from genforge.steps.project import Project

SECONDS_TO_LEAVE = 5.0
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_FALL = 1.0  # of a process whose connection is gone already
DAY = 86400.0


@contextlib.contextmanager
def peers(project: Project, name: str) -> Iterator[Peers]:
    """The processes that train the recipe together; this one alone where `processes` is 1.

    Raises:
        UserError: there are fewer GPUs than processes; or one of the others ended, with what it said last.
    """
    count = project.config.processes
    if count == 1 or parallel.is_one_of_several():  # started by torchrun, or by the first process
        with meeting(project.device) as met:
            yield met
        return
    with _all_devices(project, count), _others(project, name, count) as place, meeting(project.device, place) as met:
        yield met


@contextlib.contextmanager
def _all_devices(project: Project, count: int) -> Iterator[None]:
    """Two trainings that each wait for devices which the other holds would wait for ever: so one at a time gathers its
    devices and trains."""
    if project.device_of_workers == "cpu":
        yield
        return
    if slots.places() < count:
        raise UserError(
            f"processes is {count}, but there is room for {slots.places()} on this machine's GPUs; lower it, or let "
            f"several share a GPU ({slots.SLOTS}=2)"
        )
    with alone(slots.slots_folder() / "together.lock", "train on several GPUs", patience=DAY):
        yield


@contextlib.contextmanager
def _others(project: Project, name: str, count: int) -> Iterator[Meeting]:
    """The processes beside this one, and where they have come to meet it."""
    os.environ[THREADS_VARIABLE] = str(max(1, cores() // count))
    project.use_threads()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    place = Meeting(count)
    crew: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for rank in range(1, count):
            crew[rank] = _start(name, place.environment(rank), _log(project, name, rank))
        while not all(place.has_come(rank) for rank in crew):
            if any(process.poll() is not None for process in crew.values()):
                raise RuntimeError("a process has ended before it had met the others")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        yield place
    except RuntimeError as error:
        # Gloo and NCCL can only tell that somebody has gone: who it was, and why, stands in that one's log.
        time.sleep(SECONDS_TO_FALL)
        gone = [rank for rank, process in crew.items() if process.poll() not in (None, 0)]
        if not gone:
            raise
        log = _log(project, name, gone[0])
        raise UserError(
            f"training {name}: process {gone[0]} of {count} ended with status {crew[gone[0]].returncode}; run again, "
            f"and training goes on from the last checkpoint. The last lines of {log}:\n{_tail(log)}"
        ) from error
    finally:
        _dismiss(list(crew.values()))


def _log(project: Project, name: str, rank: int) -> Path:
    return project.state / "together" / f"{name}-{rank}.log"


def _start(name: str, place: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **ownership.environment(), **place}
    environment.pop("GENFORGE_PROGRESS", None)  # one bar is enough
    log.parent.mkdir(parents=True, exist_ok=True)
    # -P: a file in the user's folder must not stand in for a package.
    command = [sys.executable, "-P", "-m", "genforge.steps.together", name]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)


def _dismiss(crew: list[subprocess.Popen[bytes]]) -> None:
    """See to it that the others have ended: of their own accord, as after the last step, or by force."""
    deadline = time.monotonic() + SECONDS_TO_LEAVE
    if sys.exc_info()[0] is not None:
        for process in crew:
            process.terminate()
    for process in crew:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(log: Path, lines: int = 5) -> str:
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])


def main() -> None:
    """A process beside the first one, which holds the step's lock for all of them."""
    ownership.end_with_owner()
    ownership.stop_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first one's; what it does about it, all hear
    from genforge.steps.train import run

    project = Project.load()
    project.use_threads()
    run(project, sys.argv[1])


if __name__ == "__main__":
    main()
