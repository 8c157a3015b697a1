"""How long a training step of a recipe takes: our own loop as users run it, with data loading, averages and log.

    python tests/benchmarks/train_step.py RECIPE --data mnist|cifar|PATH --batch 64 --steps 30 --device cpu --threads 2

Prints one line of JSON. A step is here one in which every player has had its turn: with five critic turns to one of
the generator, all six. `s_per_step` is the median, `s_min` the shortest; `processor_s_per_step` counts user and system
seconds of the process and its children, which other work on the machine changes little; `updates` are those of
optimizers. On a GPU also `peak_cuda_mb`, and `tflops` that the products of a step come to.

RECIPE is one of the library (`genforge recipes`); `--set KEY=VALUE` overrides it, as an entry of params.yaml would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from importlib.metadata import version
from typing import Any

import as_users  # noqa: F401  # isort: skip  (before torch)
import torch
import yaml
from images import add_arguments, prepared
from laps import Enough, Pace

from genforge import catalog
from genforge.contracts import Batch, Objective
from genforge.data.loading import DeviceData, Prepared
from genforge.randomness import seed_everything
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings

FOR_EVER = 10**7  # steps


class Paced(DeviceData):
    """Training data that tell a pace when a step begins: that is when its first batch is asked for."""

    def __init__(self, *arguments: Any, objective: Objective, parts: int = 1, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.pace: Pace | None = None
        everies = [player.every for player in objective.players]
        self.steps_each = math.lcm(*everies)  # of the loop, to one in which everybody has had a turn
        self.updates = sum(self.steps_each // every for every in everies)
        self.batches = self.updates * parts  # that are asked for in it

    def batch(self, turn: int, size: int) -> Batch:
        if self.pace is not None and turn % self.batches == 0:
            self.pace.step()
        return super().batch(turn, size)


def recipe_of(name: str, overrides: list[str], training: dict[str, Any]) -> catalog.Recipe:
    """The library's recipe with `key.of.setting=value` laid over it."""
    entry: dict[str, Any] = {"from": name, "training": training}
    for override in overrides:
        key, _, value = override.partition("=")
        *path, last = key.split(".")
        place = entry
        for part in path:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    return catalog.resolve("benchmark", entry)


def gflop_of(objective: Objective, images: Batch) -> float:
    """10^9 floating-point operations of one turn of each player, gradients included."""
    from torch.utils.flop_counter import FlopCounterMode

    total = 0.0
    for player in objective.players:
        with FlopCounterMode(display=False) as counter:
            objective.loss(player, images).value.backward()
        total += counter.get_total_flops() / 1e9
        for other in objective.players:
            other.module.zero_grad()
    return total


def contend(arguments: argparse.Namespace) -> Pace:
    """Train, and time it."""
    data, called = prepared(arguments)
    training = {"steps": FOR_EVER, "batch_size": arguments.batch}
    recipe = recipe_of(arguments.recipe, arguments.set, training)
    settings = TrainingSettings.read(recipe.training, "training")
    seed_everything(0)
    objective = catalog.build_objective(recipe, data.shape, len(data.classes))
    images = Paced(data, "train", arguments.device, objective=objective, parts=settings.accumulation)
    weights = {id(weight): weight.numel() for player in objective.players for weight in player.module.parameters()}
    about: dict[str, Any] = {
        "name": arguments.name or arguments.recipe,
        "version": f"genforge {version('genforge')}",
        "params_m": round(sum(weights.values()) / 1e6, 3),
        "batch": arguments.batch,
        "updates": images.updates,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "data": called,
    }
    if arguments.flops or arguments.device.startswith("cuda"):
        about["gflop"] = round(
            gflop_of(_copy(recipe, data), Batch(*vars(images.batch(0, arguments.batch)).values())), 2
        )
    pace = Pace(about, arguments.device, None if arguments.turns else arguments.steps, arguments.lap)
    images.pace = pace
    held_out = DeviceData(data, "validation", arguments.device) if data.count("validation") else None
    with contextlib.suppress(Enough):
        train(
            objective,
            images,
            settings,
            device=arguments.device,
            log=lambda step, values: None,
            held_out=held_out,
            title=about["name"],
        )
    return pace


def _copy(recipe: catalog.Recipe, data: Prepared) -> Objective:
    """Networks to be counted, apart from those that are trained."""
    return catalog.build_objective(recipe, data.shape, len(data.classes))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30, help="laps that are timed, after a few that are not")
    parser.add_argument("--lap", type=int, default=1, help="steps a lap: more where a step takes microseconds")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; may be repeated"
    )
    parser.add_argument("--name", default=None, help="in the line that is printed")
    parser.add_argument("--flops", action="store_true", help="count the floating-point operations of a step")
    parser.add_argument("--turns", action="store_true", help="take turns: see laps.py")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    pace = contend(arguments)
    if not arguments.turns:
        print(json.dumps(pace.line()))


if __name__ == "__main__":
    main()
