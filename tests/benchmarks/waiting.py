"""What it costs how threads wait for each other: trainings alone, and more of them than there are cores for.

    python tests/benchmarks/waiting.py [hinge-sngan dcgan ddpm] [--threads 4] [--files FOLDER]

Each training has so many threads. One line of JSON a recipe and way of waiting: images a second of one training, of two
side by side and of four, all together. The ways: asleep (OMP_WAIT_POLICY=PASSIVE), awake for so many looks and then
asleep (GOMP_SPINCOUNT), and as OpenMP itself has it, which is awake for 3 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from images import SCRATCH
from laps import undecided

from genforge.cli import LOOKS_BEFORE_SLEEP

OPENMP_LOOKS = 300_000  # of libgomp where nothing is said
WAYS = {
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "2,000 looks": {"GOMP_SPINCOUNT": "2000"},
    f"{LOOKS_BEFORE_SLEEP:,} looks, as it is": {"GOMP_SPINCOUNT": str(LOOKS_BEFORE_SLEEP)},
    "as OpenMP has it": {"GOMP_SPINCOUNT": str(OPENMP_LOOKS)},
}
STEPS = {  # of a recipe: its images, steps a lap, laps
    "hinge-sngan": (("--data", "mnist", "--size", "8"), 2, 8),
    "dcgan": (("--data", "cifar", "--set", "training.precision=bfloat16"), 1, 5),
    "ddpm": (("--data", "mnist", "--size", "16"), 1, 6),
}
SIDE_BY_SIDE = (1, 2, 4)
LONGER_ALONE = 3  # times as many laps


def speed(recipe: str, way: dict[str, str], count: int, threads: int, shared: list[str]) -> float:
    """Images a second of so many trainings together."""
    data, lap, laps = STEPS[recipe]
    laps *= LONGER_ALONE if count == 1 else 1
    tool = [sys.executable, str(Path(__file__).with_name("train_step.py")), recipe, *data, *shared]
    running = [
        subprocess.Popen(
            [*tool, "--threads", str(threads), "--lap", str(lap), "--steps", str(laps)],
            env={**undecided(), **way},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(count)
    ]
    return sum(json.loads(process.communicate()[0].splitlines()[-1])["images_per_s"] for process in running)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(STEPS), metavar="RECIPE", help=", ".join(STEPS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--files", type=Path, default=Path("data/incoming"), help="folder of mnist/ and cifar10/")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    arguments = parser.parse_args(argv)
    if unknown := [recipe for recipe in arguments.recipes if recipe not in STEPS]:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(STEPS)}")
    shared = ["--files", str(arguments.files), "--scratch", str(arguments.scratch)]
    for recipe in arguments.recipes:
        for name, way in WAYS.items():
            found = {str(count): round(speed(recipe, way, count, arguments.threads, shared)) for count in SIDE_BY_SIDE}
            print(json.dumps({"recipe": recipe, "waiting": name, "images_per_s": found}), flush=True)


if __name__ == "__main__":
    main()
