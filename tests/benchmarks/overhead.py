"""What the pipeline costs beside the training itself: tracking, checkpoints, curves, orchestration.

    python tests/benchmarks/overhead.py [--recipe gan-mlp] [--steps 1500] [--rounds 3] [--threads 2]

The bare loop is `train` on the same recipe, without checkpoints, tracker or pictures. The pipeline is what a stage of
dvc.yaml runs: `genforge step train`. It is taken at one and at two times `--steps`, and so is the bare loop: what the
second half costs is the overhead that grows with training (`overhead_percent`), the rest is the same for any length
(`fixed_seconds`: starting Python, importing torch and MLflow, five looks at the pictures, the model's files).
`percent_of_an_hour` has both. A perceptron's step of some milliseconds with a state of 50 MB to checkpoint is the
hardest case. Digits at 28x28.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml
from images import SCRATCH
from laps import processor_seconds
from search import step_of

NAME = "timed"


def project(folder: Path, recipe: str) -> None:
    """A project whose data are ready."""
    folder.mkdir(parents=True, exist_ok=True)
    write_steps(folder, recipe, 100)
    for step, place in (("ingest", "data/raw"), ("prepare", "data/prepared")):
        if not (folder / place).is_dir():
            step_of(folder, step)


def write_steps(folder: Path, recipe: str, steps: int) -> None:
    parameters = {
        "seed": 0,
        "device": "cpu",
        "data": {"name": "digits", "source": "digits", "image_size": 28},
        "search": {"trials": 0},
        "recipes": {NAME: {"from": recipe, "training": {"steps": steps}}},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))


def in_pipeline(folder: Path, recipe: str, steps: int) -> tuple[float, float]:
    """Wall and processor seconds of the whole stage."""
    write_steps(folder, recipe, steps)
    shutil.rmtree(folder / ".genforge", ignore_errors=True)
    step_of(folder, "resolve")
    began, used = time.perf_counter(), processor_seconds()
    step_of(folder, "train", NAME)
    return time.perf_counter() - began, processor_seconds() - used


def bare(folder: Path, recipe: str, steps: int) -> tuple[float, float]:
    """Of the loop alone, in a process of its own."""
    command = [sys.executable, __file__, "--bare", str(folder), "--recipe", recipe, "--steps", str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, processor = json.loads(done.stdout.splitlines()[-1])
    return wall, processor


def alone(folder: Path, recipe: str, steps: int) -> None:
    """Print the seconds of `train`."""
    import torch

    from genforge import catalog
    from genforge.data.loading import DeviceData, Prepared
    from genforge.randomness import seed_everything
    from genforge.training.loop import train
    from genforge.training.settings import TrainingSettings

    torch.set_num_threads(int(os.environ["GENFORGE_THREADS"]))
    prepared = Prepared.open(folder / "data" / "prepared")
    entry = catalog.resolve(NAME, {"from": recipe, "training": {"steps": steps}})
    seed_everything(0)
    objective = catalog.build_objective(entry, prepared.shape, len(prepared.classes))
    data, held_out = DeviceData(prepared), DeviceData(prepared, "validation")
    began, used = time.perf_counter(), processor_seconds()
    train(objective, data, TrainingSettings.read(entry.training, "training"), held_out=held_out)
    print(json.dumps([time.perf_counter() - began, processor_seconds() - used]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="gan-mlp")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    parser.add_argument("--bare", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    recipe, steps = arguments.recipe, arguments.steps
    os.environ["GENFORGE_THREADS"] = str(arguments.threads)
    if arguments.bare is not None:
        alone(arguments.bare, recipe, steps)
        return
    folder = arguments.scratch / f"overhead-{recipe}"
    project(folder, recipe)
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(arguments.rounds):
        for times in (1, 2):
            seconds.setdefault(f"pipeline{times}", []).append(in_pipeline(folder, recipe, times * steps))
            seconds.setdefault(f"bare{times}", []).append(bare(folder, recipe, times * steps))
    line: dict[str, object] = {"name": "overhead", "recipe": recipe, "steps": steps, "rounds": arguments.rounds}
    for which, prefix in enumerate(("", "processor_")):
        middle = {side: statistics.median(pair[which] for pair in pairs) for side, pairs in seconds.items()}
        grows = (middle["pipeline2"] - middle["pipeline1"]) / (middle["bare2"] - middle["bare1"]) - 1
        fixed = middle["pipeline2"] - middle["bare2"] * (1 + grows)
        line |= {
            f"{prefix}bare_s": round(middle["bare2"], 2),
            f"{prefix}pipeline_s": round(middle["pipeline2"], 2),
            f"{prefix}overhead_percent": round(100 * grows, 2),
            f"{prefix}fixed_seconds": round(fixed, 2),
            f"{prefix}percent_of_an_hour": round(100 * (grows + fixed / 3600), 2),
        }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
