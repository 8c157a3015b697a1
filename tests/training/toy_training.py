"""Small objectives and data over which the loop's promises are tested."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port, TrainingData
from genforge.settings import Settings

SHAPE = ImageShape(1, 8, 8)


class ToyData(TrainingData):
    """64 random images in 3 classes."""

    def __init__(self, shape: ImageShape = SHAPE, seed: int = 0) -> None:
        self.shape, self.count, self.classes, self.seed = shape, 64, 3, seed
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(self.count, shape.channels, shape.height, shape.width, generator=generator)
        self.images, self.labels = images * 2 - 1, torch.arange(self.count) % 3
        self.asked: list[int] = []

    def chunks(self, size: int = 1024) -> Iterator[Batch]:
        for start in range(0, self.count, size):
            yield Batch(self.images[start : start + size], self.labels[start : start + size])

    def batch(self, turn: int, size: int) -> Batch:
        self.asked.append(turn)
        places = torch.arange(turn * size, (turn + 1) * size)
        chosen = (places * 37 + places // self.count * 5 + self.seed) % self.count
        return Batch(self.images[chosen], self.labels[chosen])


class ToyNetwork(Network):
    """Images to images, or latents to images, through one hidden layer."""

    kind = "denoiser"
    settings_type = Settings

    def __init__(self, normalised: bool = False) -> None:
        super().__init__(Settings(), Port("denoiser", SHAPE))
        norm = nn.BatchNorm1d(32) if normalised else nn.Identity()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), norm, nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 64)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).view(-1, 1, 8, 8)


class ToyObjective(Objective):
    family: ClassVar[str] = "toy"
    settings_type = Settings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        return {"network": Port("denoiser", image)}

    @classmethod
    def exported_role(cls) -> str:
        return "network"


class Denoise(ToyObjective):
    """One player. Draws from every generator that a training run may draw from."""

    def __init__(self, network: Network | None = None, settings: Settings | None = None) -> None:
        self.exported = network or ToyNetwork(normalised=True)
        self.players = [Player("denoiser", self.exported)]
        self.calls: list[str] = []

    def prepare(self, data: TrainingData) -> None:
        self.calls.append("prepare")

    def loss(self, player: Player, batch: Batch) -> Loss:
        scale = 0.1 + 0.01 * random.random() + 0.01 * float(np.random.rand())
        noisy = batch.images + scale * torch.randn_like(batch.images)
        value = (self.exported(noisy) - batch.images).square().mean()
        return Loss(value, {"loss": value.detach()})

    def finish(self, data: TrainingData) -> None:
        self.calls.append("finish")


class Duel(ToyObjective):
    """Two players; the second has its turn every `every`-th step. Counts turns, and notes stray gradients."""

    def __init__(self, every: int = 5, networks: Mapping[str, Network] | None = None) -> None:
        self.critic, self.exported = ToyNetwork(), ToyNetwork()
        self.players = [Player("critic", self.critic), Player("generator", self.exported, every)]
        self.turns = {"critic": 0, "generator": 0}
        self.after = {"critic": 0, "generator": 0}
        self.trainable: list[tuple[str, bool, bool]] = []

    def loss(self, player: Player, batch: Batch) -> Loss:
        self.turns[player.name] += 1
        learns = [all(weight.requires_grad for weight in net.parameters()) for net in (self.critic, self.exported)]
        self.trainable.append((player.name, *learns))
        score = self.critic(self.exported(torch.randn_like(batch.images)))
        value = score.mean() if player.name == "critic" else -score.mean()
        return Loss(value + self.critic(batch.images).square().mean() * 0.1)

    def after_step(self, player: Player) -> None:
        self.after[player.name] += 1


def weights(objective: Objective) -> dict[str, Tensor]:
    """Copies of every tensor of an objective's networks."""
    modules = {player.name: player.module for player in objective.players} | {"exported": objective.exported}
    return {
        f"{owner}.{key}": value.detach().clone(memory_format=torch.contiguous_format)
        for owner, module in modules.items()
        for key, value in module.state_dict().items()
    }


def assert_same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, such as {different[0]}"
