"""What each switch of `training:` gains: a step with it, and without, in turns.

    python tests/benchmarks/switches.py [unet dcgan vae-mlp] [--only SWITCH ...] [--rounds 5] [--threads 1]
    python tests/benchmarks/switches.py --layouts [--float32]

Names are rows of the table (rows.py), or recipes of the library, whose step is of 64 images of 32x32x3. The second is
`channels_last` for a recipe of every network with convolutions, with what it is by default here.

Prints one line of JSON a name and switch: the median of the ratios within rounds (above 1: faster with it) of wall and
of processor seconds, with the least and the largest of the latter. The other switches stand as in the row or recipe,
but for the precision: bfloat16, or float32 where it is asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from images import SCRATCH
from laps import undecided
from rows import BFLOAT16, ROWS, Turns
from table import HERE, ratios, take_turns
from train_step import recipe_of

from genforge import catalog
from genforge.contracts import ImageShape
from genforge.training.acceleration import uses_channels_last
from genforge.training.settings import TrainingSettings

# With it, and without; on top of what the row asks for.
SWITCHES = {
    "precision": ("training.precision=bfloat16", "training.precision=float32"),
    "channels_last": ("training.channels_last=true", "training.channels_last=false"),
    "compile": ("training.compile=true", "training.compile=false"),
    "turn": ("training.compile=turn", "training.compile=false"),
    "keep_memory": ("training.keep_memory=true", "training.keep_memory=false"),
    "flush_denormals": ("training.flush_denormals=true", "training.flush_denormals=false"),
}
FLOAT32 = ("--set", "training.precision=float32")
# A row, or a recipe of the library, of every network with convolutions; some of both, since rows are wider.
LAYOUTS = (
    *("dcgan", "sngan", "hinge-sngan", "r3gan", "stylegan", "progressive", "vae", "autoencoder", "unet", "ddpm", "edm"),
    *("realnvp", "pixelcnn", "energy"),
)
FULLY_GROWN = ("--set", "objective.growth.hold=1", "--set", "objective.growth.fade=1")  # nearly at once
IMAGE = ImageShape(3, 32, 32)


def row_of(name: str, precision: tuple[str, ...]) -> Turns:
    """A row of the table, or else a recipe of the library as one. Raises ValueError where that is no training step."""
    row = ROWS.get(name)
    if row is None and name in catalog.library():
        growing = FULLY_GROWN if name == "progressive" else ()
        return Turns(name, ("train_step", name, *growing, *precision), ("--data", "cifar"), (), lap=4)
    if not isinstance(row, Turns) or row.ours[0] != "train_step":
        raise ValueError(name)
    return replace(row, ours=(*row.ours, *precision))


def channels_last(row: Turns) -> bool:
    """Whether images of the row lie with channels last by default on this CPU."""
    overrides = [value for key, value in zip(row.ours, row.ours[1:], strict=False) if key == "--set"]
    recipe = recipe_of(row.ours[1], [value for value in overrides if "channels_last" not in value], {})
    objective = catalog.build_objective(recipe, IMAGE, classes=10)
    settings = TrainingSettings.read(recipe.training, "training")
    return uses_channels_last(settings, "cpu", [player.module for player in objective.players])


def measure(row: Turns, switch: str, shared: list[str], rounds: int, log: Path) -> dict[str, list[float]]:
    """Ratios within rounds, without to with, of wall and of processor seconds."""
    tool = [str(HERE / f"{row.ours[0]}.py"), *row.ours[1:]]
    commands = [[*tool, "--set", setting, *shared, *row.data, "--turns"] for setting in SWITCHES[switch]]
    with_it, without = take_turns(commands, undecided(), log, max(3, row.lap // 5), row.lap, rounds)
    return ratios(with_it, without)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows of the table, or recipes; left out: unet, dcgan and vae-mlp")
    parser.add_argument("--only", nargs="+", choices=list(SWITCHES), default=list(SWITCHES))
    parser.add_argument("--layouts", action="store_true", help="channels_last, for every network with convolutions")
    parser.add_argument("--float32", action="store_true", help="in float32 in place of bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--files", type=Path, default=Path("data/incoming"), help="folder of mnist/ and cifar10/")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    arguments = parser.parse_args(argv)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    shared = ["--files", str(arguments.files), "--scratch", str(arguments.scratch), "--threads", str(arguments.threads)]
    switches = ["channels_last"] if arguments.layouts else arguments.only
    precision = FLOAT32 if arguments.float32 else BFLOAT16
    for name in arguments.names or (LAYOUTS if arguments.layouts else ("unet", "dcgan", "vae-mlp")):
        try:
            row = row_of(name, precision)
        except ValueError:
            parser.error(f"{name}: no training step of the table")
        for switch in switches:
            laps = measure(row, switch, shared, arguments.rounds, arguments.scratch / f"switch-{name}-{switch}.log")
            line = {"name": name, "switch": switch, "gain": round(statistics.median(laps["wall"]), 3)}
            line["processor_gain"] = round(statistics.median(laps["processor"]), 3)
            line |= {"least": round(min(laps["processor"]), 3), "largest": round(max(laps["processor"]), 3)}
            if switch == "channels_last":
                line["default"] = channels_last(row)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
