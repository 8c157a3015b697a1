"""What the pipeline costs beside the training itself: tracking, checkpoints, curves, orchestration.

    python tests/benchmarks/overhead.py [--recipe gan-mlp] [--steps 1000] [--rounds 3] [--minutes 10]

What a stage of dvc.yaml runs, `genforge step train`, runs in a process that keeps accounts of itself: what its steps
take (the players' turns, the averages, now and then a batch of held-out images) is the loop alone, and whatever else
the process and those that it starts take is overhead. Both are processor seconds of one and the same run, on one
thread, so that a machine which others use slows both alike, and one run tells what two side by side would need an hour
for.

The training has twice `--steps` steps. Its second half shows what grows with training (`grows_percent`: checkpoints,
log, curves, what is sent to MLflow meanwhile, system metrics). The rest is the same for any length (`fixed_s`: MLflow
and its uploader, five looks at the pictures, the model's files; Python's start and torch's import count for neither,
since the loop alone needs them too). `overhead_percent` has both, for a training of `--minutes`.

A perceptron's step of some milliseconds with a state of 50 MB to checkpoint is the hardest case. Digits at 28x28.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from images import SCRATCH
from laps import processor_seconds
from search import step_of

NAME = "timed"


def project(folder: Path, recipe: str, steps: int) -> None:
    """A project whose data are ready, and where nothing has been trained."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {
        "seed": 0,
        "device": "cpu",
        "data": {"name": "digits", "source": "digits", "image_size": 28},
        "search": {"trials": 0},
        "recipes": {NAME: {"from": recipe, "training": {"steps": steps}}},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    for step, place in (("ingest", "data/raw"), ("prepare", "data/prepared")):
        if not (folder / place).is_dir():
            step_of(folder, step)
    shutil.rmtree(folder / ".genforge", ignore_errors=True)
    step_of(folder, "resolve")


class Accounts:
    """Processor seconds of this process, and what for.

    steps: in steps, and in looks at held-out images. looks: in looks at the pictures. half, whole: (all, in steps, in
    looks) so far, when half of the steps were done and when all were.
    """

    def __init__(self, steps: int) -> None:
        self.count, self.done = steps, 0
        self.steps = self.looks = 0.0
        self.half = self.whole = (0.0, 0.0, 0.0)

    def step(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.examine(function, *arguments)
        self.done += 1
        if self.done == self.count // 2:
            self.half = processor_seconds(), self.steps, self.looks
        elif self.done == self.count:
            self.whole = processor_seconds(), self.steps, self.looks

    def examine(self, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self.steps += time.thread_time() - began

    def look(self, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self.looks += time.thread_time() - began


def stage(steps: int) -> None:
    """Run the stage here, in the project's folder, and print what was found."""
    import psutil

    from genforge.cli import main as genforge
    from genforge.steps import train as of_stage
    from genforge.training import loop
    from genforge.training.history import History

    accounts = Accounts(steps)
    # The names by which the loop and the stage call their own parts.
    loop._step = functools.partial(accounts.step, loop._step)  # type: ignore[assignment]
    loop._examined = functools.partial(accounts.examine, loop._examined)  # type: ignore[assignment]
    of_stage.pictures_of = functools.partial(accounts.look, of_stage.pictures_of)  # type: ignore[assignment]
    see = History.see
    History.see = lambda *arguments: accounts.look(see, *arguments)  # type: ignore[method-assign]
    words, sys.stdout = sys.stdout, sys.stderr
    began = processor_seconds()
    status = genforge(["step", "train", NAME])
    if status or accounts.done != steps:
        sys.exit(f"the stage ended with {status} after {accounts.done} of {steps} steps")
    psutil.wait_procs(psutil.Process().children())  # what is sent to MLflow after the end counts too
    (at_half, steps_at_half, looks_at_half), (at_end, steps_at_end, looks_at_end) = accounts.half, accounts.whole
    bare = steps_at_end - steps_at_half
    found = {
        "bare": accounts.steps,
        "all": processor_seconds() - began,
        "grows": (at_end - at_half - bare - (looks_at_end - looks_at_half)) / bare,
    }
    print(json.dumps(found), file=words)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="gan-mlp")
    parser.add_argument(
        "--steps", type=int, default=1000, help="of the half that counts: whole intervals of checkpoints"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the training that the percentage is told for")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    parser.add_argument("--stage", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    steps, seconds = 2 * arguments.steps, 60 * arguments.minutes
    if arguments.stage:
        stage(steps)
        return
    environment = {**os.environ, "GENFORGE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    folder = arguments.scratch / f"overhead-{arguments.recipe}"
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", "--steps", str(arguments.steps)]
    found = []
    for _ in range(arguments.rounds):
        project(folder, arguments.recipe, steps)
        done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    grows = statistics.median(one["grows"] for one in found)
    fixed = statistics.median(one["all"] - one["bare"] * (1 + one["grows"]) for one in found)
    line = {
        "name": "overhead",
        "recipe": arguments.recipe,
        "steps": steps,
        "rounds": arguments.rounds,
        "ms_per_step": round(1e3 * statistics.median(one["bare"] for one in found) / steps, 2),
        "minutes": arguments.minutes,
        "bare_s": seconds,
        "pipeline_s": round(seconds * (1 + grows) + fixed, 1),
        "overhead_percent": round(100 * (grows + fixed / seconds), 2),
        "grows_percent": round(100 * grows, 2),
        "grows_percent_each": [round(100 * one["grows"], 2) for one in found],
        "fixed_s": round(fixed, 1),
        "percent_of_an_hour": round(100 * (grows + fixed / 3600), 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
