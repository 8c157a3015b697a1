"""GANs on eight Gaussians on a ring, the data on which generators are known to forget modes.

    python tests/benchmarks/gan_ring.py [--steps 2500] [--out docs/pictures/gan-ring.png]

trains each with five seeds and prints how many modes each reached, and what share of its points is near one. Networks,
optimizer, batches and the critic's turns are the same for all; only the loss, what bounds the critic's slopes, and how
often the generator's turn comes differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genforge import catalog, pictures
from genforge.contracts import POINT, Batch, Draw, TrainingData
from genforge.data import points
from genforge.evaluation.coordinates import CoordinatesExtractor, fit_modes
from genforge.evaluation.measures.modes import WITHIN
from genforge.randomness import derive, seed_everything
from genforge.scatter import row, scatter
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings

MODES, SHOWN = points.RING_MODES, 1000
FEW = 0.01  # share of the points below which a mode is not covered: an eighth of its due is 0.0156
VARIANTS: dict[str, dict[str, Any]] = {
    "minimax": {"loss": "minimax"},
    "minimax, 5 critic turns": {"loss": "minimax", "critic_steps": 5},
    "Wasserstein, gradient penalty": {"loss": "wasserstein", "gradient_penalty": 1.0, "critic_steps": 5},
    "relativistic, R1 and R2": {"loss": "relativistic", "r1": 0.2, "r2": 0.2},
    "non-saturating, R1": {"loss": "non-saturating", "r1": 0.2},
}


class Ring(TrainingData):
    """Points of the ring, another batch at every turn."""

    shape, count, classes = POINT, 1_000_000, 0

    def chunks(self, size: int = 1024) -> Iterator[Batch]:
        yield self.batch(0, size)

    def batch(self, turn: int, size: int) -> Batch:
        return Batch(torch.from_numpy(points.draw("ring", size, None, derive(7, turn)).points)[:, :, None, None])


def recipe(variant: str) -> catalog.Recipe:
    widths = {"widths": [128, 128]}
    entry = {
        "from": "gan-mlp",
        "networks": {"generator": {**widths, "normalisation": "none"}, "critic": {**widths, "dropout": 0.0}},
        "objective": {"latent_size": 16, **VARIANTS[variant]},
    }
    return catalog.resolve("ring", entry, points=True)


def drawn(variant: str, seed: int, steps: int) -> np.ndarray:
    """Points of a generator that was trained for so many steps: float32 (SHOWN, 1, 1, 2)."""
    chosen = recipe(variant)
    seed_everything(seed)
    objective = catalog.build_objective(chosen, POINT, 0)
    settings = {**chosen.training, "steps": steps, "batch_size": 256, "ema": 0.99}
    settings["optimizer"] = {"name": "adam", "learning_rate": 1e-3, "betas": [0.0, 0.9]}
    settings["players"] = {}
    train(objective, Ring(), TrainingSettings.read(settings, "ring"), seed=seed, title=f"{variant}, seed {seed}")
    found = catalog.build_sampler(chosen.sampler).sample(objective.exported, Draw(0, torch.arange(SHOWN)))
    return found.permute(0, 2, 3, 1).numpy()


def shares(found: np.ndarray) -> np.ndarray:
    """What share of the points lies within three standard deviations of each mode: (8,)."""
    real = points.draw("ring", 20_000, None, 0)
    eyes = CoordinatesExtractor(fit_modes(real.points[:, None, None], real.labels, MODES), digest="")
    logits = eyes.features(found).logits
    assert logits is not None
    close = logits.max(axis=1) >= -(WITHIN**2) / 2
    return np.bincount(logits.argmax(axis=1)[close], minlength=MODES) / len(found)


def covered(found: np.ndarray) -> int:
    """How many modes have at least `FEW` of the points."""
    return int((shares(found) >= FEW).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for variant in arguments.variants:
        found = [drawn(variant, seed, arguments.steps) for seed in range(arguments.seeds)]
        close = np.mean([shares(one).sum() for one in found])
        print(f"| {variant} | {' '.join(str(covered(one)) for one in found)} | {close:.0%} |", flush=True)
        titles = [f"{variant}: {covered(one)} of {MODES}" for one in found]
        rows.append(row([scatter(one) for one in found], titles)[::2, ::2])
    if arguments.out:
        pictures.save_png(arguments.out, np.concatenate(rows))


if __name__ == "__main__":
    sys.exit(main())
