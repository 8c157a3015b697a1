"""Consistency training against a Gaussian, whose consistency function is known; its stages, and what it refuses.

For clean ~ N(m, s^2) the probability-flow ODE takes x at noise level t to m + s (x - m) / sqrt(s^2 + t^2), and the
best guess of the clean image is m + s^2 (x - m) / (s^2 + t^2).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genforge.catalog import build_network
from genforge.contracts import Batch, ImageShape, Network, Port
from genforge.networks.edm import EDMDenoiser, EDMSettings
from genforge.objectives.consistency import Consistency, ConsistencySettings
from genforge.objectives.denoising import evenly_spread
from genforge.settings import Settings, UserError

SHAPE = ImageShape(1, 1, 4)
MEAN, DEVIATION = 0.3, 0.5


class Silent(Network):
    kind = "backbone"
    settings_type = Settings


class OfAGaussian(EDMDenoiser):
    """The consistency function (power 1) or the denoiser (power 2) of N(mean, deviation^2), to be learned."""

    def __init__(self, power: int) -> None:
        super().__init__(
            EDMSettings(log_sigma_mean=0.0), Port("denoiser", SHAPE), Silent(Settings(), Port("backbone", SHAPE))
        )
        self.mean, self.log_deviation, self.power = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(())), power

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        deviation = self.log_deviation.exp()
        share = (deviation / (deviation**2 + sigma**2).sqrt()) ** self.power
        return self.mean + share[:, None, None, None] * (noisy - self.mean)


@pytest.mark.parametrize(("power", "stage"), [(1, 9), (2, 0)], ids=["consistency", "denoising"])
def test_training_finds_the_gaussian_that_the_data_is(power: int, stage: int) -> None:
    """Late stages have the consistency function at their minimum, stage 0 the denoiser."""
    torch.manual_seed(0)
    network = OfAGaussian(power)
    objective = Consistency(ConsistencySettings(stage_steps=1, stages=stage), {"denoiser": network})
    objective.steps = stage
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        objective.loss(objective.players[0], Batch(MEAN + DEVIATION * torch.randn(256, 1, 1, 4))).value.backward()
        optimizer.step()
        schedule.step()
    assert network.mean.item() == pytest.approx(MEAN, abs=0.02)
    assert network.log_deviation.exp().item() == pytest.approx(DEVIATION, abs=0.03)


def test_the_loss_is_the_papers() -> None:
    """Song et al. 2023, eq. 10, with the weight and the distance of Song & Dhariwal 2024: of each image alone."""
    network = OfAGaussian(1)
    objective = Consistency(ConsistencySettings(stage_steps=1), {"denoiser": network})
    objective.steps = 3
    clean = torch.rand(5, 1, 1, 4)
    torch.manual_seed(1)
    value = objective.loss(objective.players[0], Batch(clean)).value.item()
    torch.manual_seed(1)
    noise = torch.randn_like(clean)
    levels = network.training_sigma(evenly_spread(5, clean.device))
    c, expected = 0.00054 * math.sqrt(4), []
    for image, own, t, r in zip(clean, noise, levels, objective.shorter(levels), strict=True):
        here, there = (network((image + level * own)[None], level[None]) for level in (t, r))
        apart = (here - there).norm().item()
        expected.append((math.sqrt(apart**2 + c**2) - c) / (t - r).item())
    assert value == pytest.approx(sum(expected) / 5, rel=1e-5)


def small(dropout: float = 0.0, **settings: Any) -> Consistency:
    torch.manual_seed(0)
    choice = {"name": "edm-denoiser", "backbone": {"name": "unet", "width": 8, "dropout": dropout}}
    port = Port("denoiser", ImageShape(1, 8, 8))
    network = build_network(choice, port, "test")
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return Consistency(ConsistencySettings(**settings), {"denoiser": network})


def test_each_stage_divides_the_way_and_the_first_one_is_denoising() -> None:
    objective = small(stage_steps=10, stages=6, ratio=2.0, stretch=8.0)
    t = torch.tensor([0.01, 1.0, 50.0])
    ways = []
    for stage in range(8):
        objective.steps = 10 * stage + 9
        assert objective.stage == min(stage, 6)
        ways.append((t - objective.shorter(t)) / t)
    assert torch.equal(ways[0], torch.ones(3))
    torch.testing.assert_close(ways[6], (1 + 8 * torch.sigmoid(-t)) / 64)  # Geng et al. 2024, eq. 12
    torch.testing.assert_close(ways[5], 2 * ways[6])
    assert torch.equal(ways[7], ways[6])


def test_steps_are_counted_by_steps_of_the_optimizer_and_kept() -> None:
    objective = small(stage_steps=2)
    batch = Batch(torch.rand(4, 1, 8, 8) * 2 - 1)
    for _ in range(3):
        objective.loss(objective.players[0], batch)
    assert objective.stage == 0  # parts of a batch, not steps
    for _ in range(4):
        objective.after_step(objective.players[0])
    other = small(stage_steps=2)
    other.load_state(objective.state())
    assert objective.stage == other.stage == 2


def test_both_answers_are_given_under_the_same_dropout_and_only_one_learns() -> None:
    objective = small(dropout=0.5, stage_steps=1)
    objective.steps = 3
    objective.denoiser.train()
    noisy, sigma = torch.randn(4, 1, 8, 8), torch.full((4,), 0.7)
    taught = objective._teach(noisy, torch.zeros_like(noisy), sigma, None)
    answer = objective.denoiser(noisy, sigma)
    assert torch.equal(taught, answer) and not taught.requires_grad and answer.requires_grad
    assert not torch.equal(objective.denoiser(noisy, sigma), answer)


def test_without_noise_the_answer_is_the_image() -> None:
    objective = small(stage_steps=1)
    objective.steps = 1
    clean = torch.randn(3, 1, 8, 8)
    taught = objective._teach(clean, clean, torch.tensor([0.0, 0.001, 0.5]), None)
    assert torch.equal(taught[:2], clean[:2]) and not torch.equal(taught[2], clean[2])


def test_a_denoiser_that_could_answer_always_the_same_is_refused() -> None:
    port = Port("denoiser", ImageShape(1, 8, 8))
    choice = {"name": "ddpm-denoiser", "prediction": "image", "backbone": {"name": "unet", "width": 8}}
    with pytest.raises(UserError, match=r"leave images without noise .* prediction noise or velocity"):
        Consistency(ConsistencySettings(), {"denoiser": build_network(choice, port, "test")})
    for name in ("edm-denoiser", "flow-matching-denoiser", "ddpm-denoiser"):
        network = build_network({"name": name, "backbone": {"name": "unet", "width": 8}}, port, "test")
        Consistency(ConsistencySettings(), {"denoiser": network})


def test_stages_whose_two_noise_levels_float32_cannot_tell_apart_are_refused() -> None:
    for ratio, stages in ((2.0, 16), (4.0, 8), (16.0, 4)):
        network = OfAGaussian(1)
        objective = Consistency(ConsistencySettings(stage_steps=1, stages=stages, ratio=ratio), {"denoiser": network})
        objective.steps = stages
        t = network.training_sigma(evenly_spread(256, torch.device("cpu")))
        way = (t - objective.shorter(t)).double() / t.double()
        stretched = 1 + objective.settings.stretch * torch.sigmoid(-t.double())
        torch.testing.assert_close(way, stretched / ratio**stages, rtol=0.005, atol=0)
        with pytest.raises(UserError, match=rf"at most {stages} stages where each divides the way by {ratio:g}"):
            ConsistencySettings.read({"stages": stages + 1, "ratio": ratio}, "test")
    with pytest.raises(UserError, match=r"at most 0 stages"):
        ConsistencySettings.read({"ratio": 1e200}, "test")
