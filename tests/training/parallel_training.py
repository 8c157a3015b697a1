"""Trains every recipe of the library, and one more, for a few steps; run by `torchrun`, in the processes there are.

torchrun parallel_training.py FOLDER: weights go to FOLDER/<recipe>-<rank>.safetensors, and those of the recipe
`RESUMED` after it went on from a checkpoint to FOLDER/resumed-<rank>.safetensors.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":  # some package of others is called `tests` as well, and it would be found first
    sys.modules["tests"] = ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).parents[1])]

import torch
from safetensors.torch import save_file
from torch import Tensor

from genforge import catalog
from genforge.contracts import ImageShape
from genforge.parallel import ALONE, Peers, meeting
from genforge.training.checkpoint import Checkpoints, whole
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings
from tests.networks.network_cases import some_pixels

SHAPE = ImageShape(1, 8, 8)
RESUMED = "energy"  # every process remembers something of its own: chains


def family(name: str) -> str:
    return catalog.target("objective", catalog.read_library(name)["objective"]["name"]).family


LIBRARY = [name for name in catalog.library() if family(name) != "baseline"]
# What no recipe of the library asks for, and goes by what it has seen of a batch.
LENGTHS = {
    "from": "stylegan",
    "networks": {"generator": {"width": 4, "widest": 8}, "critic": {"width": 4, "widest": 8}},
    "objective": {"path_length": 2.0, "path_length_every": 1, "adaptive_augmentation": ["mirror"]},
}
CASES: dict[str, dict[str, Any]] = {name: {"from": name} for name in LIBRARY} | {"path-length": LENGTHS}


def trained(
    name: str, accumulation: int = 1, peers: Peers = ALONE, batch_size: int = 8, kept: Path | None = None
) -> dict[str, Tensor]:
    """Everything that a recipe's players have learned after two steps along the plain gradient (Adam would make a
    whole step of a gradient that is zero but for rounding), and what their objective remembers."""
    recipe = catalog.resolve("test", CASES[name])
    settings = TrainingSettings.read(
        {
            "steps": 2,
            "batch_size": batch_size,
            "accumulation": accumulation,
            "ema": 0.5,
            "checkpoint_every": 1,
            "log_every": 2,
            "clip_norm": 1.0,
            "optimizer": {"name": "sgd", "learning_rate": 0.01, "betas": [0.0, 0.0]},
        },
        "training",
    )
    torch.manual_seed(0)
    objective = catalog.build_objective(recipe, SHAPE, 3)
    checkpoints = Checkpoints(kept) if kept else None
    train(objective, some_pixels(SHAPE, classes=3), settings, seed=1, peers=peers, checkpoints=checkpoints)
    learned = {player.name: player.module for player in objective.players} | {"exported": objective.exported}
    remembered = {f"state.{name}": value.clone() for name, value in objective.state().items()}
    return remembered | {
        f"{owner}.{key}": value.detach().clone(memory_format=torch.contiguous_format)
        for owner, module in learned.items()
        for key, value in module.state_dict().items()
    }


def resumed(peers: Peers, kept: Path) -> dict[str, Tensor]:
    """As `trained`, by processes that begin at the step before the last, with what the checkpoint of it holds."""
    trained(RESUMED, peers=peers, kept=kept)
    if peers.is_first:
        shutil.rmtree(whole(kept)[0])
    peers.wait()
    return trained(RESUMED, peers=peers, kept=kept)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with meeting("cpu") as peers:
        for name in CASES:
            save_file(trained(name, peers=peers), folder / f"{name}-{peers.rank}.safetensors")
        save_file(resumed(peers, folder / "kept"), folder / f"resumed-{peers.rank}.safetensors")
