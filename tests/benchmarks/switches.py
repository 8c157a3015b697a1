"""What each switch of `training:` gains: a row's step with it, and without, in turns.

    python tests/benchmarks/switches.py [unet dcgan vae-mlp] [--rounds 5] [--threads 1] [--files FOLDER]

Prints one line of JSON a row and switch: the median of the ratios within rounds (above 1: faster with it) of wall and
of processor seconds, with the least and the largest of the latter. The other switches stand as in the row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

from images import SCRATCH
from rows import ROWS, Turns
from table import HERE, QUIET, ratios, take_turns

# With it, and without; on top of what the row asks for.
SWITCHES = {
    "precision": ("training.precision=bfloat16", "training.precision=float32"),
    "channels_last": ("training.channels_last=true", "training.channels_last=false"),
    "compile": ("training.compile=true", "training.compile=false"),
    "keep_memory": ("training.keep_memory=true", "training.keep_memory=false"),
    "flush_denormals": ("training.flush_denormals=true", "training.flush_denormals=false"),
}


def measure(row: Turns, switch: str, shared: list[str], rounds: int, log: Path) -> dict[str, list[float]]:
    """Ratios within rounds, without to with, of wall and of processor seconds."""
    environment = {name: value for name, value in (os.environ | QUIET).items() if name != "OMP_NUM_THREADS"}
    tool = [str(HERE / f"{row.ours[0]}.py"), *row.ours[1:]]
    commands = [[*tool, "--set", setting, *shared, *row.data, "--turns"] for setting in SWITCHES[switch]]
    with_it, without = take_turns(commands, environment, log, max(3, row.lap // 5), row.lap, rounds)
    return ratios(with_it, without)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=["unet", "dcgan", "vae-mlp"], help="of the table (rows.py)")
    parser.add_argument("--only", nargs="+", choices=list(SWITCHES), default=list(SWITCHES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--files", type=Path, default=Path("data/incoming"), help="folder of mnist/ and cifar10/")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    arguments = parser.parse_args(argv)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    shared = ["--files", str(arguments.files), "--scratch", str(arguments.scratch), "--threads", str(arguments.threads)]
    for name in arguments.rows:
        row = ROWS.get(name)
        if not isinstance(row, Turns) or row.ours[0] != "train_step":
            parser.error(f"{name}: no training step of the table")
        for switch in arguments.only:
            laps = measure(row, switch, shared, arguments.rounds, arguments.scratch / f"switch-{name}-{switch}.log")
            line = {"row": name, "switch": switch, "gain": round(statistics.median(laps["wall"]), 3)}
            line["processor_gain"] = round(statistics.median(laps["processor"]), 3)
            line |= {"least": round(min(laps["processor"]), 3), "largest": round(max(laps["processor"]), 3)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
