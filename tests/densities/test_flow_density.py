"""The likelihood of a flow: of points the density itself, of 8-bit images a probability."""

from __future__ import annotations

import math

import pytest
import torch

from genforge.contracts import CELL, EIGHT_BIT, POINT, POINTS, Batch, Draw, ImageShape
from genforge.densities.energy import EnergyDensity, EnergyDensitySettings
from genforge.densities.flow import FlowDensity, FlowDensitySettings
from genforge.networks.flow import Flow
from genforge.objectives.flow import FlowLikelihood, FlowLikelihoodSettings
from genforge.settings import UserError
from tests.networks.network_cases import build

PIXEL = ImageShape(1, 8, 8)


def test_points_are_told_of_as_they_are() -> None:
    network = build("realnvp-mlp", POINT).eval()
    assert isinstance(network, Flow)
    density = FlowDensity(FlowDensitySettings())
    points = torch.rand(7, 2, 1, 1)
    told = density.log_likelihood({"flow": network}, points, Draw(0, torch.arange(7)))
    with torch.no_grad():
        assert torch.allclose(told.float(), network.log_density(points))
    assert (density.of({"flow": network}), density.how_of(POINT)) == (POINTS, "exact")
    assert (density.of({"flow": build("realnvp", PIXEL)}), density.how_of(PIXEL)) == (
        EIGHT_BIT,
        "exact; uniform dequantisation, 1 draw",
    )


def test_the_probabilities_of_every_level_of_a_pixel_sum_to_what_lies_in_range() -> None:
    """The rest of an image being as it is, the levels of one pixel share the density of the pixel's whole range."""
    network = build("realnvp", PIXEL, couplings=2).eval()
    assert isinstance(network, Flow)
    images = torch.zeros(256, 1, 8, 8)
    images[:, 0, 3, 4] = torch.arange(256) / 127.5 - 1
    density = FlowDensity(FlowDensitySettings(draws=1))
    noise = Draw(0, torch.zeros(256, dtype=torch.int64))  # the same everywhere: all other pixels stay as they are
    told = density.log_likelihood({"flow": network}, images, noise)
    assert torch.isfinite(told).all()

    fine = (torch.arange(4096) + 0.5) / 4096 * (2 + CELL) - 1 - CELL / 2
    from genforge import randomness

    unit = randomness.uniform(0, torch.zeros(1, dtype=torch.int64), (1, 8, 8))
    whole = (torch.zeros(1, 1, 8, 8) + CELL * (unit - 0.5)).repeat(4096, 1, 1, 1)
    whole[:, 0, 3, 4] = fine
    with torch.no_grad():
        integral = network.log_density(whole).double().logsumexp(0) + math.log((2 + CELL) / 4096)
    assert told.logsumexp(0).item() == pytest.approx(integral.item() + 63 * math.log(CELL), abs=0.01)


def test_the_loss_is_the_negative_of_what_the_density_tells_in_bits() -> None:
    network = build("realnvp", PIXEL).eval()
    assert isinstance(network, Flow)
    objective = FlowLikelihood(FlowLikelihoodSettings(), {"flow": network})
    images = (torch.randint(256, (64, 1, 8, 8)) / 127.5 - 1).float()
    with torch.no_grad():
        losses = [objective.loss(objective.players[0], Batch(images)).value.item() for _ in range(5)]
    told = FlowDensity(FlowDensitySettings()).log_likelihood({"flow": network}, images, Draw(0, torch.arange(64)))
    assert sum(losses) / 5 == pytest.approx(-told.mean().item() / (64 * math.log(2)), rel=1e-3)


def test_an_energy_says_that_its_constant_is_not_known() -> None:
    network = build("energy", POINT).eval()
    density = EnergyDensity(EnergyDensitySettings())
    points = torch.rand(5, 2, 1, 1)
    told = density.log_likelihood({"energy": network}, points, Draw(0, torch.arange(5)))
    with torch.no_grad():
        assert torch.allclose(told.float(), -network(points))
    assert not density.normalised


def test_what_cannot_be_inverted_is_told() -> None:
    generator = build("mlp-generator", PIXEL)
    with pytest.raises(UserError, match="can be inverted"):
        FlowDensity(FlowDensitySettings()).check(generator)
    with pytest.raises(UserError, match="can be inverted"):
        FlowLikelihood(FlowLikelihoodSettings(), {"flow": generator})
