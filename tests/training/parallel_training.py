"""Trains every recipe of the library for a few steps; run by `torchrun`, in the processes that there are.

torchrun parallel_training.py FOLDER: weights go to FOLDER/<recipe>-<rank>.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":  # some package of others is called `tests` as well, and it would be found first
    sys.modules["tests"] = ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).parents[1])]

import torch
from safetensors.torch import save_file
from torch import Tensor

from genforge import catalog
from genforge.contracts import ImageShape
from genforge.parallel import ALONE, Peers, meeting
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings
from tests.networks.network_cases import some_pixels

SHAPE = ImageShape(1, 8, 8)


def family(name: str) -> str:
    return catalog.target("objective", catalog.read_library(name)["objective"]["name"]).family


LIBRARY = [name for name in catalog.library() if family(name) != "baseline"]


def trained(name: str, accumulation: int = 1, peers: Peers = ALONE, batch_size: int = 8) -> dict[str, Tensor]:
    """Everything that a recipe's players have learned after two steps along the plain gradient (Adam would make a
    whole step of a gradient that is zero but for rounding)."""
    recipe = catalog.resolve("test", {"from": name})
    settings = TrainingSettings.read(
        {
            "steps": 2,
            "batch_size": batch_size,
            "accumulation": accumulation,
            "ema": 0.5,
            "log_every": 2,
            "clip_norm": 1.0,
            "optimizer": {"name": "sgd", "learning_rate": 0.01, "betas": [0.0, 0.0]},
        },
        "training",
    )
    torch.manual_seed(0)
    objective = catalog.build_objective(recipe, SHAPE, 3)
    train(objective, some_pixels(SHAPE, classes=3), settings, seed=1, peers=peers)
    learned = {player.name: player.module for player in objective.players} | {"exported": objective.exported}
    return {
        f"{owner}.{key}": value.detach().clone()
        for owner, module in learned.items()
        for key, value in module.state_dict().items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with meeting("cpu") as peers:
        for name in LIBRARY:
            save_file(trained(name, peers=peers), Path(sys.argv[1]) / f"{name}-{peers.rank}.safetensors")
