"""Companions: averaged with the exported network, fitted to by `finish`, kept in the model's folder, read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_training import SHAPE, ToyData

from genforge.catalog import build_network, target
from genforge.contracts import Batch, Density, Draw, ImageShape, Loss, Network, Objective, Player, Port, TrainingData
from genforge.files import write_json
from genforge.models import COMPANIONS, load, weights_of_companions
from genforge.randomness import seed_everything
from genforge.settings import Settings, UserError
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings

CHOICES = {"decoder": {"name": "mlp-generator", "widths": [8]}, "encoder": {"name": "mlp-critic", "widths": [8]}}
PORTS = {
    "decoder": Port("latent_to_image", SHAPE, latent_size=3),
    "encoder": Port("image_to_vector", SHAPE, outputs=3),
}


class Coded(Objective):
    """An autoencoder of two players, so that each average has a player of its own."""

    family: ClassVar[str] = "toy"
    settings_type = Settings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        return PORTS

    @classmethod
    def exported_role(cls) -> str:
        return "decoder"

    @classmethod
    def companions(cls) -> tuple[str, ...]:
        return ("encoder",)

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        self.networks, self.exported = networks, networks["decoder"]
        self.players = [Player(role, network) for role, network in networks.items()]
        self.seen: list[list[torch.Tensor]] = []
        self.finished: bool | None = None

    def loss(self, player: Player, batch: Batch) -> Loss:
        value = (self.exported(self.networks["encoder"](batch.images)) - batch.images).square().mean()
        return Loss(value, {"loss": value.detach()})

    def after_step(self, player: Player) -> None:
        if player.name == "encoder":
            self.seen.append([weight.detach().clone() for weight in player.module.parameters()])

    def finish(self, data: TrainingData) -> None:
        self.finished = not self.networks["encoder"].training


def coded() -> Coded:
    seed_everything(1)
    return Coded(Settings(), {role: build_network(CHOICES[role], port, role) for role, port in PORTS.items()})


def test_the_average_follows_companions_too_and_is_what_stays() -> None:
    objective = coded()
    averages = [weight.detach().clone() for weight in objective.networks["encoder"].parameters()]
    train(objective, ToyData(), TrainingSettings(steps=5, batch_size=8, ema=0.9))
    for number, weights in enumerate(objective.seen, start=1):
        kept = min(0.9, (1 + number) / (10 + number))
        averages = [kept * old + (1 - kept) * new for old, new in zip(averages, weights, strict=True)]
    for weight, average in zip(objective.networks["encoder"].parameters(), averages, strict=True):
        torch.testing.assert_close(weight.detach(), average)
    assert objective.finished, "`finish` finds companions in evaluation mode"


class Counting(Density):
    """Not a probability: what it was given, as a number."""

    kinds = ("latent_to_image",)
    settings_type = Settings
    exact, how = True, "counted"

    def log_likelihood(self, networks: Mapping[str, Network], images: torch.Tensor, draw: Draw) -> torch.Tensor:
        return networks["encoder"](images).sum(dim=1) - len(networks)


def find(table: str, name: str) -> object:
    return Counting if table == "density" else target(table, name)


def folder_of(objective: Coded, folder: Path) -> Path:
    described = {
        role: {"network": CHOICES[role], "port": {**vars(port), "image": vars(SHAPE)}} for role, port in PORTS.items()
    }
    save_file(objective.exported.state_dict(), folder / "weights.safetensors")
    save_file(weights_of_companions({"encoder": objective.networks["encoder"]}), folder / COMPANIONS)
    card = {
        "exported": {**described["decoder"], "sampler": {"name": "one-shot"}},
        "role": "decoder",
        "companions": {"encoder": described["encoder"]},
        "density": {"name": "counting"},
    }
    write_json(folder / "model.json", card)
    return folder


def test_companions_and_density_come_back_when_asked_for_and_not_else(tmp_path: Path) -> None:
    objective = coded()
    folder = folder_of(objective, tmp_path)
    images = ToyData().batch(0, 4).images
    model = load(folder, find, companions=True)
    assert list(model.networks) == ["decoder", "encoder"] and model.density is not None
    assert not model.companions["encoder"].training
    expected = objective.networks["encoder"].eval()(images).sum(dim=1) - 2
    torch.testing.assert_close(model.density.log_likelihood(model.networks, images, Draw(0, torch.arange(4))), expected)

    (folder / COMPANIONS).unlink()
    drawing = load(folder, find)  # drawing needs no companion
    assert drawing.companions == {} and drawing.density is None
    assert drawing.draw(0, 2).shape == (2, 8, 8, 1)
    with pytest.raises(UserError, match=r"companions\.safetensors does not exist"):
        load(folder, find, companions=True)


def test_weights_of_other_companions_are_told(tmp_path: Path) -> None:
    folder = folder_of(coded(), tmp_path)
    tensors = load_file(folder / COMPANIONS)
    save_file({key.replace("encoder.", "critic."): value for key, value in tensors.items()}, folder / COMPANIONS)
    with pytest.raises(UserError, match=r"companions\.safetensors does not hold the weights"):
        load(folder, find, companions=True)
