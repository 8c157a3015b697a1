"""Maximum likelihood against what is known: the entropy of a Markov chain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from genforge.catalog import build_objective, resolve
from genforge.contracts import Batch, ImageShape
from genforge.networks.autoregressive import to_values

STAY = 0.9  # probability that a pixel is as the one before it


def chain(images: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Black and white images whose pixels, in reading order, are a Markov chain: (images, 1, side, side)."""
    changes = torch.rand(images, side * side, generator=generator) > STAY
    changes[:, 0] = torch.rand(images, generator=generator) < 0.5
    return to_values(changes.cumsum(1) % 2, 1).unflatten(1, (1, side, side))


@pytest.mark.parametrize(
    ("name", "network", "rate"),
    [
        ("pixelcnn", {"width": 16, "layers": 2, "features": 16, "dropout": 0.0}, 1e-2),
        ("pixel-transformer", {"width": 32, "layers": 1, "heads": 2, "features": 16, "dropout": 0.0}, 1e-2),
    ],
)
def test_the_entropy_of_a_markov_chain_is_approached_and_not_passed(
    name: str, network: dict[str, Any], rate: float
) -> None:
    """The entropy of a chain is that of its first pixel and of its changes; no model can do with less."""
    side = 5
    recipe = resolve("test", {"from": name, "networks": {"network": {"bits": 1, **network}}})
    torch.manual_seed(0)
    objective = build_objective(recipe, ImageShape(1, side, side), 0)
    (player,) = objective.players
    optimizer = torch.optim.Adam(player.module.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(1)
    for _ in range(150):
        optimizer.zero_grad()
        objective.loss(player, Batch(chain(64, side, generator))).value.backward()
        optimizer.step()
    with torch.no_grad():
        found = objective.loss(player, Batch(chain(4000, side, generator)))
    change = -(STAY * math.log2(STAY) + (1 - STAY) * math.log2(1 - STAY))
    entropy = (1 + (side * side - 1) * change) / (side * side)  # bits a pixel
    bits = found.logs["bits_per_dimension"].item()
    assert entropy - 0.01 < bits < entropy + 0.04
