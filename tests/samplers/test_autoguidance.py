"""Autoguidance: in the network, in the objective, in the sampler."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from genforge import catalog
from genforge.contracts import Batch, Draw, ImageShape, Network, Port
from genforge.networks.autoguided import Autoguided, AutoguidedSettings
from genforge.networks.edm import EDMDenoiser, EDMSettings
from genforge.objectives.denoising import Denoising, DenoisingSettings
from genforge.settings import Settings, UserError
from tests.networks.network_cases import EIGHT, build

SHAPE = ImageShape(1, 8, 8)
PORT = Port("denoiser", SHAPE)
CENTRE, SPREAD, WIDER = 0.2, 0.3, 0.5


class Backbone(Network):
    kind = "backbone"
    settings_type = Settings


class OfAGaussian(EDMDenoiser):
    """The exact denoiser of pixels from N(CENTRE, spread^2)."""

    def __init__(self, spread: float) -> None:
        super().__init__(EDMSettings(), PORT, Backbone(Settings(), PORT))
        self.register_buffer("spread", torch.tensor(spread))
        self.asked = 0

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.asked += len(noisy)
        share = self.spread**2 / (self.spread**2 + sigma[0] ** 2)
        return CENTRE + share * (noisy - CENTRE)


def guided() -> Autoguided:
    network = Autoguided(AutoguidedSettings(), PORT, main=OfAGaussian(SPREAD), guide=OfAGaussian(WIDER))
    network.eval()
    return network


def sampler(**settings: Any) -> Any:
    return catalog.build_sampler({"name": "heun", "steps": 60, "clip": False, **settings})


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0, 3.0])
def test_a_gaussian_led_away_from_a_wider_one_is_narrower(strength: float) -> None:
    """The guided flow scales every pixel on its own, to a standard deviation of SPREAD^w / WIDER^(w - 1)."""
    draw = Draw(0, torch.arange(8))
    drawn = sampler(autoguidance=strength).sample(guided(), draw)
    noise = sampler(autoguidance=0.0).sample(guided(), draw) - CENTRE
    expected = CENTRE + noise * (SPREAD**strength / WIDER ** (strength - 1)) / WIDER
    torch.testing.assert_close(drawn, expected, atol=0.01, rtol=0)
    assert noise.std().item() == pytest.approx(WIDER, abs=0.05)


def test_the_guide_is_asked_only_where_it_leads() -> None:
    network, draw = guided(), Draw(0, torch.arange(3))
    assert isinstance(network.guide, OfAGaussian) and isinstance(network.main, OfAGaussian)
    sampler(steps=2).sample(network, draw)
    assert (network.main.asked, network.guide.asked) == (9, 0)
    sampler(steps=2, autoguidance=1.5).sample(network, draw)
    assert (network.main.asked, network.guide.asked) == (18, 9)


def test_the_guide_learns_less_often_and_by_itself() -> None:
    network = build("autoguided-denoiser", EIGHT)
    objective = Denoising(DenoisingSettings(guide_every=8), {"denoiser": network})
    assert isinstance(network, Autoguided) and objective.exported is network
    assert [(player.name, player.module, player.every) for player in objective.players] == [
        ("denoiser", network.main, 1),
        ("guide", network.guide, 8),
    ]
    objective.loss(objective.players[1], Batch(torch.rand(4, 1, 8, 8) * 2 - 1)).value.backward()
    assert all(weight.grad is not None for weight in network.guide.parameters())
    assert all(weight.grad is None for weight in network.main.parameters())


def test_the_guide_may_be_an_earlier_state_of_main() -> None:
    same = {"name": "edm-denoiser", "backbone": {"name": "unet", "width": 8}}
    network = build("autoguided-denoiser", EIGHT, main=same, guide=same)
    assert isinstance(network, Autoguided)
    objective = Denoising(DenoisingSettings(guide_until=2), {"denoiser": network})
    (player,) = objective.players
    assert player.module is network.main
    seen = []
    for step in range(4):
        if step == 3:  # stopped and gone on from a checkpoint
            kept, weights = objective.state(), copy.deepcopy(network.state_dict())
            objective = Denoising(DenoisingSettings(guide_until=2), {"denoiser": network})
            network.load_state_dict(weights)
            objective.load_state(kept)
        with torch.no_grad():
            for weight in network.main.parameters():
                weight.add_(1.0)
        objective.after_step(player)
        seen.append([next(iter(one.parameters())).flatten()[0].item() for one in (network.main, network.guide)])
    first = seen[0][0] - 1
    assert [main - first for main, _ in seen] == pytest.approx([1, 2, 3, 4])
    assert [guide - first for _, guide in seen] == pytest.approx([1, 2, 2, 2])
    objective.finish(None)  # type: ignore[arg-type]  # which it does not look at
    objective.steps = 2
    with pytest.raises(UserError, match=r"guide_until is 2, but training ends after 2 steps"):
        objective.finish(None)  # type: ignore[arg-type]


def test_a_guide_that_means_something_else_by_the_same_weights_cannot_be_main() -> None:
    def one(name: str = "edm-denoiser", head_width: int = 4, **settings: object) -> dict[str, object]:
        return {"name": name, "backbone": {"name": "unet", "width": 8, "head_width": head_width}, **settings}

    def can_be_main(main: dict[str, object], guide: dict[str, object]) -> bool:
        network = build("autoguided-denoiser", EIGHT, main=main, guide=guide)
        assert isinstance(network, Autoguided)
        return network.guide_can_be_main()

    assert can_be_main(one(), one())
    dropout = {"name": "unet", "width": 8, "head_width": 4, "dropout": 0.2}
    assert can_be_main(one(), {"name": "edm-denoiser", "backbone": dropout}), "the sampler asks without dropout"
    assert not can_be_main(one(sigma_data=0.5), one(sigma_data=0.85))
    assert not can_be_main(one(), one(head_width=8))
    ddpm = "ddpm-denoiser"
    assert not can_be_main(one(ddpm, prediction="velocity"), one(ddpm, prediction="noise"))
    assert not can_be_main(one(ddpm, schedule="linear"), one(ddpm, schedule="cosine"))


def test_the_guide_learns_by_the_weight_of_its_own_error() -> None:
    """Main predicts the velocity, the guide the noise: as main's, the guide's error would count 1 + sigma^2 times."""
    backbone = {"name": "unet", "width": 8}
    network = build(
        "autoguided-denoiser",
        EIGHT,
        main={"name": "ddpm-denoiser", "prediction": "velocity", "backbone": backbone},
        guide={"name": "ddpm-denoiser", "prediction": "noise", "backbone": backbone},
    )
    assert isinstance(network, Autoguided)
    objective = Denoising(DenoisingSettings(), {"denoiser": network})
    batch = Batch(torch.rand(64, 1, 8, 8) * 2 - 1)
    for player in objective.players:
        torch.manual_seed(0)
        # An untrained U-Net answers zero, whose error is what it should have answered: the noise, or the velocity.
        assert 0.5 < objective.loss(player, batch).value.item() < 1.5, player.name


def test_what_is_counted_in_steps_is_shortened_with_a_training() -> None:
    guide = {"backbone": {"width": 16}}
    entry = {"from": "autoguided-edm", "networks": {"denoiser": {"guide": guide}}, "objective": {"guide_until": 300}}
    assert catalog.resolve("a", entry).shortened(180) == {"training.steps": 180, "objective.guide_until": 60}
    assert catalog.resolve("a", {"from": "autoguided-edm"}).shortened(180) == {"training.steps": 180}
    few = catalog.resolve("a", {"from": "few-step"})
    assert few.shortened(400) == {"training.steps": 400, "objective.stage_steps": 50}
    entry["objective"] = {"guide_until": 900}
    with pytest.raises(UserError, match=r"recipes.a: objective.guide_until is 900, but training ends after 900 steps"):
        catalog.resolve("a", entry)


def test_a_trained_guide_is_kept_with_the_network() -> None:
    network, other = build("autoguided-denoiser", EIGHT).eval(), build("autoguided-denoiser", EIGHT).eval()
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    other.load_state_dict(network.state_dict())
    drawing, draw = sampler(steps=2, autoguidance=2.0), Draw(0, torch.arange(2))
    assert torch.equal(drawing.sample(other, draw), drawing.sample(network, draw))
    assert not torch.equal(sampler(steps=2).sample(network, draw), drawing.sample(network, draw))


def test_what_does_not_go_together_is_told() -> None:
    with pytest.raises(UserError, match=r"sampler.autoguidance is 2, but .* autoguided-edm"):
        sampler(autoguidance=2.0).check(OfAGaussian(SPREAD))
    with pytest.raises(UserError, match="main and guide should be denoisers of one kind"):
        build("autoguided-denoiser", EIGHT, guide={"name": "ddpm-denoiser", "backbone": {"name": "unet", "width": 8}})
    with pytest.raises(UserError, match=r"guide_until is 9, but there is no guide"):
        catalog.resolve("a", {"from": "edm", "objective": {"guide_until": 9}})
    with pytest.raises(UserError, match=r"recipes.a: objective.guide_until is 9: .*guide should have the settings of"):
        catalog.resolve("a", {"from": "autoguided-edm", "objective": {"guide_until": 9}})
