"""How long drawing takes: `--batch` images of a recipe's sampler, untrained weights.

    python tests/benchmarks/sampling.py RECIPE --data mnist|cifar|PATH --batch 64 --steps 3 --device cpu --threads 2

Prints the line of JSON of train_step.py; a step is here one batch of images, drawn as `genforge sample` draws it.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version

import as_users  # noqa: F401  # isort: skip  (before torch)
import torch
from images import add_arguments, prepared
from laps import Pace
from train_step import recipe_of

from genforge import catalog
from genforge.models import Model
from genforge.randomness import seed_everything


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="batches that are timed, after one that is not")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe; may be repeated"
    )
    parser.add_argument("--name", default=None, help="in the line that is printed")
    parser.add_argument("--turns", action="store_true", help="take turns: see laps.py")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data, called = prepared(arguments)
    recipe = recipe_of(arguments.recipe, arguments.set, {})
    seed_everything(0)
    network = catalog.build_objective(recipe, data.shape, len(data.classes)).exported.to(arguments.device).eval()
    sampler = catalog.build_sampler(recipe.sampler)
    model = Model(network, sampler, {})
    about = {
        "name": arguments.name or arguments.recipe,
        "version": f"genforge {version('genforge')}",
        "params_m": round(sum(weight.numel() for weight in network.parameters()) / 1e6, 3),
        "batch": arguments.batch,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "data": called,
    }
    pace = Pace(about, arguments.device, None if arguments.turns else arguments.steps, warm=1)
    pace.run(lambda: model.draw(0, arguments.batch))
    if not arguments.turns:
        print(json.dumps(pace.line()))


if __name__ == "__main__":
    main()
