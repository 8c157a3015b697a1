"""Laws of pixels against torch.distributions, and against the sum over all levels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from genforge.catalog import build_network
from genforge.contracts import CELL, ImageShape, Port, to_network
from genforge.networks.pixels import GaussianPixels, Pixels, calibrated_log_sigma, gaussian_nats

ONE = ImageShape(1, 1, 1)
LEVELS = to_network(torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1))


def law(name: str, image: ImageShape = ONE, **settings: Any) -> Pixels:
    network = build_network({"name": name, **settings}, Port("pixels", image), "test")
    assert isinstance(network, Pixels)
    return network.eval()


@pytest.mark.parametrize("middle", [-1.0, -0.998, 0.3, 1.0])
@pytest.mark.parametrize("scale", [0.003, 0.05, 1.0])
@pytest.mark.parametrize("name", ["gaussian-pixels", "logistic-pixels"])
def test_the_probabilities_of_all_levels_sum_to_one(name: str, scale: float, middle: float) -> None:
    chosen = {"scale": "fixed", "sigma": scale} if name == "gaussian-pixels" else {"scale": scale}
    decoded = torch.full_like(LEVELS, middle)
    told = law(name, **chosen).log_probability(decoded, LEVELS)
    assert told.shape == (256,) and torch.isfinite(told).all() and (told <= 0).all()
    assert told.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_the_logistic_s_mass_is_the_difference_of_its_distribution_function() -> None:
    middle, scale = 0.1, 0.2
    told = law("logistic-pixels", scale=scale)(torch.full_like(LEVELS, middle), LEVELS)

    def below(value: Tensor) -> Tensor:
        return ((value.double() - middle) / scale).sigmoid()

    values = LEVELS.flatten().double()
    expected = below(values + CELL / 2) - below(values - CELL / 2)
    expected[0], expected[-1] = below(values[0] + CELL / 2), 1 - below(values[-1] - CELL / 2)
    torch.testing.assert_close(told.double().exp(), expected, rtol=1e-4, atol=1e-9)


def test_each_channel_of_the_logistic_has_its_own_scale() -> None:
    network = law("logistic-pixels", ImageShape(3, 2, 2))
    assert [tuple(weight.shape) for weight in network.parameters()] == [(3, 1, 1)]


def test_the_gaussian_s_mass_is_its_density_times_the_cell_where_that_is_small() -> None:
    network = law("gaussian-pixels", scale="fixed", sigma=0.5)
    inner = LEVELS[1:-1]
    decoded = torch.full_like(inner, 0.2)
    density = network(decoded, inner).double() + math.log(CELL)
    torch.testing.assert_close(network.log_probability(decoded, inner), density, atol=1e-4, rtol=0)


def test_gaussian_nats_are_torch_s() -> None:
    images, mean = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    expected = -Normal(mean, 0.3).log_prob(images).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_nats(images, mean, torch.tensor(math.log(0.3))), expected)


def test_bernoulli_nats_are_torch_s_and_finite_at_the_ends() -> None:
    network = law("bernoulli-pixels", ImageShape(1, 4, 4))
    images = torch.randint(2, (3, 1, 4, 4)) * 2.0 - 1
    mean = torch.rand(3, 1, 4, 4) * 1.8 - 0.9
    expected = Bernoulli((mean + 1) / 2).log_prob((images + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(network(mean, images), expected)
    assert torch.isfinite(network(-images, images)).all()


def test_bernoulli_slopes_are_those_of_the_formula_and_end_where_probabilities_are_kept_back() -> None:
    torch.manual_seed(0)
    images = torch.randint(2, (3, 1, 4, 4)) * 2.0 - 1
    decoded = (4 * torch.randn(3, 1, 4, 4)).tanh()
    decoded[0, 0, 0] = torch.tensor([1.0, -1.0, 0.999999, -0.999999])
    decoded.requires_grad_()
    (ours,) = torch.autograd.grad(law("bernoulli-pixels", ImageShape(1, 4, 4))(decoded, images).mean(), decoded)
    told = ((decoded * images + 1) / 2).clamp(1e-6, 1 - 1e-6)
    (expected,) = torch.autograd.grad(told.log().flatten(1).sum(dim=1).mean(), decoded)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    assert torch.equal(ours == 0, expected == 0) and (ours == 0).any()


def test_grays_become_white_as_often_as_they_are_light() -> None:
    unit = torch.rand(2000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    grays = torch.full_like(unit, -0.5)  # a quarter of the way from black to white
    assert ((law("bernoulli-pixels").observe(grays, unit) + 1) / 2).mean().item() == pytest.approx(0.25, abs=0.03)
    assert (law("bernoulli-pixels", binarise="half").observe(grays, unit) == -1).all()
    ends = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    assert torch.equal(law("bernoulli-pixels").observe(ends, unit[:2]), ends), "black and white stay what they are"


def test_no_other_scale_is_more_likely_than_the_calibrated() -> None:
    torch.manual_seed(0)
    images, mean = torch.randn(8, 1, 4, 4), 0.2 * torch.randn(8, 1, 4, 4)
    best = calibrated_log_sigma(images, mean)
    nats = gaussian_nats(images, mean, best).sum()
    assert nats < gaussian_nats(images, mean, best + 0.01).sum()
    assert nats < gaussian_nats(images, mean, best - 0.01).sum()


def test_the_calibrated_scale_loses_no_gradient() -> None:
    torch.manual_seed(0)
    images, mean = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4, requires_grad=True)
    (ours,) = torch.autograd.grad(gaussian_nats(images, mean, calibrated_log_sigma(images, mean)).sum(), mean)
    through = 0.5 * (images - mean).square().mean().log()
    (exact,) = torch.autograd.grad(gaussian_nats(images, mean, through).sum(), mean)
    torch.testing.assert_close(ours, exact)


def test_calibration_is_kept_for_evaluation_alone() -> None:
    network = law("gaussian-pixels", ImageShape(1, 4, 4))
    assert isinstance(network, GaussianPixels)
    images, mean = torch.randn(8, 1, 4, 4), torch.zeros(8, 1, 4, 4)
    network.calibrate(torch.tensor(0.09))
    assert network.log_scale(mean, images).exp().item() == pytest.approx(0.3)
    torch.testing.assert_close(network.train().log_scale(mean, images), calibrated_log_sigma(images, mean))
    fixed = law("gaussian-pixels", scale="fixed", sigma=0.7)
    fixed.calibrate(torch.tensor(0.09))
    assert fixed.state_dict()["log_sigma"].exp().item() == pytest.approx(0.7)
