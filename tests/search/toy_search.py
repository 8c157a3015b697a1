"""Objectives of a few milliseconds, named by `module:function` as a plan names them; for the tests alone."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genforge.dimension import Dimension
from genforge.files import write_text
from genforge.search.plan import Plan
from genforge.search.tickets import Trial
from genforge.settings import UserError

SPACE = {"rate": Dimension(low=0.001, high=1.0, log=True), "width": Dimension(low=4, high=16)}
DEFAULTS = {"rate": 0.9, "width": 6}
SECONDS_FOR_COMPANY = 120.0


def toy(objective: str, tmp_path: Path, trials: int = 6, better: str = "lower", **arguments: Any) -> Plan:
    """A plan over `SPACE` for one of the objectives below."""
    return Plan.model_validate(
        {
            "name": "toy",
            "space": SPACE,
            "defaults": DEFAULTS,
            "objective": f"toy_search:{objective}",
            "arguments": {"log": str(tmp_path / "calls.txt"), **arguments},
            "better": better,
            "trials": trials,
            "seed": 3,
            "method": "tpe",  # which needs no torch: a worker starts in a fifth of the time
        }
    )


def imports(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """Fails in a worker that has imported what it has no use for."""

    def value(trial: Trial) -> float:
        if found := {"redis", "sqlalchemy", "sklearn"} & {name for name, module in sys.modules.items() if module}:
            raise ImportError(f"imported: {found}")
        return 0.0

    return value


def bowl(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """(rate - 0.3)^2 + a little for the width. `log` counts its calls, one line each, with the process.

    With `company`, a call returns only when so many processes have been called: all of them take part, however slowly
    they start.
    """

    def value(trial: Trial) -> float:
        with Path(arguments["log"]).open("a") as log:
            log.write(f"{trial.number} {os.getpid()}\n")
        time.sleep(arguments.get("seconds", 0.0))
        deadline = time.monotonic() + SECONDS_FOR_COMPANY
        while len(_processes(arguments["log"])) < arguments.get("company", 1):
            if time.monotonic() > deadline:
                raise TimeoutError("the other workers do not come")
            time.sleep(0.05)
        return (float(trial.settings["rate"]) - 0.3) ** 2 + 0.01 * abs(int(trial.settings["width"]) - 8)

    return value


def bowl_without_scipy(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """The bowl, in a worker that has not imported SciPy."""
    inner = bowl(arguments)

    def value(trial: Trial) -> float:
        if "scipy" in sys.modules:
            raise ImportError("SciPy was imported")
        return inner(trial)

    return value


def surroundings(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """Tells the worker's log how many threads it may have, and what it is told."""
    threads = [os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GENFORGE_THREADS")]
    print(f"threads {' '.join(threads)}, standard input {sys.stdin.read()!r}", flush=True)
    return lambda trial: 0.0


def killed(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """As by the kernel, for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def deaf(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """Hears no SIGTERM, and takes ten minutes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return bowl({**arguments, "seconds": 600.0})


def _processes(log: str) -> set[str]:
    return {line.split()[1] for line in Path(log).read_text().splitlines() if len(line.split()) == 2}


def falling(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """Reports four values that grow with the rate, so that a trial of a high rate is pruned."""

    def value(trial: Trial) -> float:
        rate = float(trial.settings["rate"])
        for step in range(1, 5):
            trial.report(step, rate + 1.0 / step)
        return rate

    return value


def sometimes_not_finite(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """NaN in trial 1, infinity in a report of trial 2, an exception in trial 3, else the number of the trial."""

    def value(trial: Trial) -> float:
        match trial.number:
            case 1:
                return float("nan")
            case 2:
                trial.report(7, float("inf"))
            case 3:
                raise ValueError("groups 3 do not divide channels 8")
        return float(trial.number)

    return value


def steps(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """Ten steps of `seconds` each. After each one a report, a checkpoint and then a line in `log`: `trial step`.

    Where it begins is told as well: `trial from step`.
    """

    def value(trial: Trial) -> float:
        checkpoint = trial.folder / "step.txt"
        done = int(checkpoint.read_text()) if checkpoint.exists() else 0
        _say(arguments, f"{trial.number} from {done}")
        for step in range(done + 1, 11):
            time.sleep(arguments.get("seconds", 0.0))
            trial.report(step, 1.0 / step, ended=True)  # nothing is pruned here
            write_text(checkpoint, str(step))
            _say(arguments, f"{trial.number} {step}")
        return float(trial.number)

    return value


def _say(arguments: Mapping[str, Any], line: str) -> None:
    with Path(arguments["log"]).open("a") as log:
        log.write(line + "\n")


def disk_full(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """The checkpoint of trial 1 cannot be written, and is told as `training.checkpoint` tells it."""

    def value(trial: Trial) -> float:
        if trial.number == 1:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise UserError("the checkpoint could not be written") from error
        return float(trial.number)

    return value


def unusable(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    raise ModuleNotFoundError("a library that is not installed")
