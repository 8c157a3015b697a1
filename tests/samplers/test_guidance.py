"""Classifier-free guidance: in the loss, in the network, in the sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genforge import catalog
from genforge.contracts import Batch, Draw, ImageShape, Network, Port
from genforge.networks.edm import EDMDenoiser, EDMSettings
from genforge.objectives.denoising import Denoising, DenoisingSettings
from genforge.settings import Settings, UserError

SHAPE, CLASSES = ImageShape(1, 8, 8), 3
CENTRES = torch.tensor([-0.6, 0.2, 0.7, 0.1])  # of each class, and of what has no label
SPREAD = 0.3


class Backbone(Network):
    kind = "backbone"
    settings_type = Settings


class Gaussians(EDMDenoiser):
    """The exact denoiser of images whose pixels are N(centre of the class, SPREAD^2)."""

    def __init__(self, unlabelled: bool = True) -> None:
        port = Port("denoiser", SHAPE, classes=CLASSES, unlabelled=unlabelled)
        super().__init__(EDMSettings(), port, Backbone(Settings(), port))
        self.register_buffer("centres", CENTRES)
        self.labels: list[Tensor] = []

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        self.labels.append(labels)
        centre = CENTRES[labels][:, None, None, None]
        return centre + SPREAD**2 / (SPREAD**2 + sigma[0] ** 2) * (noisy - centre)


def sampler(**settings: Any) -> Any:
    return catalog.build_sampler({"name": "heun", "steps": 40, "clip": False, **settings})


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_guidance_leads_from_no_label_through_the_label_and_beyond(guidance: float) -> None:
    """Ho & Salimans 2022, eq. 6. With equal spreads the guided score is that of a Gaussian around
    none + guidance * (label - none), so that images end with exactly this centre."""
    labels = torch.arange(6) % CLASSES
    drawn = sampler(guidance=guidance).sample(Gaussians().eval(), Draw(0, torch.arange(6), labels))
    centre = CENTRES[-1] + guidance * (CENTRES[labels] - CENTRES[-1])
    noise = sampler(guidance=0.0).sample(Gaussians().eval(), Draw(0, torch.arange(6), labels)) - CENTRES[-1]
    torch.testing.assert_close(drawn - centre[:, None, None, None], noise, atol=0.01, rtol=0)
    assert noise.std().item() == pytest.approx(SPREAD, abs=0.03)


def test_without_guidance_nothing_is_evaluated_without_a_label() -> None:
    network, labels = Gaussians().eval(), torch.tensor([0, 2])
    sampler(guidance=1.0, steps=2).sample(network, Draw(0, torch.arange(2), labels))
    assert all(torch.equal(asked, labels) for asked in network.labels)
    network.labels.clear()
    sampler(guidance=2.0, steps=1).sample(network, Draw(0, torch.arange(2), labels))
    assert [asked.tolist() for asked in network.labels] == [[0, 2], [CLASSES, CLASSES]]


def test_guidance_of_a_network_that_always_had_labels_is_told() -> None:
    with pytest.raises(UserError, match=r"sampler.guidance is 2, but .* objective.label_dropout above 0"):
        sampler(guidance=2.0).check(Gaussians(unlabelled=False))
    sampler(guidance=1.0).check(Gaussians(unlabelled=False))
    sampler(guidance=2.0).check(Gaussians())
    with pytest.raises(UserError, match=r"sampler\.guidance is 2, but"):
        catalog.resolve("test", {"from": "edm", "sampler": {"guidance": 2.0}})


class Listening(Backbone):
    """A backbone that remembers its labels."""

    def __init__(self, port: Port) -> None:
        super().__init__(Settings(), port)
        self.labels = torch.empty(0)

    def forward(self, images: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        self.labels = labels
        return torch.zeros_like(images)


def taught(share: float) -> tuple[Denoising, Listening]:
    settings = DenoisingSettings(conditional=True, label_dropout=share)
    port = Denoising.ports(settings, SHAPE, CLASSES)["denoiser"]
    backbone = Listening(EDMDenoiser.inner_port("backbone", settings, port))
    return Denoising(settings, {"denoiser": EDMDenoiser(EDMSettings(), port, backbone)}), backbone


def test_the_loss_withholds_a_share_of_the_labels() -> None:
    torch.manual_seed(0)
    objective, backbone = taught(0.25)
    labels = torch.arange(8000) % CLASSES
    objective.loss(objective.players[0], Batch(torch.zeros(8000, 1, 8, 8), labels))
    withheld = backbone.labels == CLASSES
    assert withheld.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(backbone.labels[~withheld], labels[~withheld])
    assert backbone.port.unlabelled


def test_without_dropout_every_label_is_given_and_none_can_be_left_out() -> None:
    objective, backbone = taught(0.0)
    labels = torch.arange(6) % CLASSES
    objective.loss(objective.players[0], Batch(torch.zeros(6, 1, 8, 8), labels))
    assert torch.equal(backbone.labels, labels)
    assert not backbone.port.unlabelled


def test_labels_can_be_withheld_only_where_they_are_given() -> None:
    with pytest.raises(UserError, match="conditional: true, or label_dropout: 0"):
        DenoisingSettings.read({"label_dropout": 0.1}, "objective")


def test_the_unet_learns_a_vector_for_no_label() -> None:
    torch.manual_seed(0)
    port = Port("backbone", SHAPE, outputs=1, classes=CLASSES, unlabelled=True)
    network = catalog.build_network({"name": "unet", "width": 8}, port, "test")
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    images, time = torch.randn(1, 1, 8, 8).expand(4, 1, 8, 8), torch.full((4,), 0.3)
    answers = network(images, time, torch.arange(4))
    assert all((answers[3] - answers[label]).abs().max() > 1e-4 for label in range(3))
    answers[3].square().sum().backward()
    table = dict(network.named_parameters())["label.table.weight"].grad
    assert table is not None and table[3].abs().sum() > 0
