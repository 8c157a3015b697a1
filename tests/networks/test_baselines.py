"""Baselines recover the moments of what they were fitted to."""

from __future__ import annotations

import pytest
import torch

from genforge.catalog import resolve
from genforge.contracts import ImageShape, Port
from genforge.networks import baselines
from genforge.networks.baselines import (
    Box,
    BoxSettings,
    Gaussian,
    GaussianSettings,
    Mixture,
    MixtureSettings,
    latent_size,
    principal,
)
from genforge.settings import UserError
from tests.networks.network_cases import Images

SHAPE = ImageShape(1, 8, 8)
PORT = Port("latent_to_image", SHAPE, latent_size=latent_size(SHAPE))


def correlated(count: int = 400, shape: ImageShape = SHAPE) -> Images:
    """Correlated pixels with falling variances, some of them constant as the corners of digits are."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(shape.size, shape.size, generator=generator) / shape.size**0.5
    scale = torch.linspace(1.0, 0.0, shape.size).clamp(min=0)
    flat = (torch.randn(count, shape.size, generator=generator) * scale) @ mix
    flat[:, -5:] = -1.0
    return Images(0.4 * flat.view(count, shape.channels, shape.height, shape.width))


def draws(network: torch.nn.Module, count: int) -> torch.Tensor:
    torch.manual_seed(1)
    return network.eval()(torch.randn(count, PORT.latent_size)).flatten(1).double()


def test_box_is_the_smallest_that_holds_the_data_and_is_filled_evenly() -> None:
    data = correlated()
    box = Box(BoxSettings(), PORT)
    box.fit(data)
    flat = data.images.flatten(1)
    assert torch.equal(box.low, flat.amin(0))
    assert torch.equal(box.high, flat.amax(0))
    drawn = draws(box, 20_000).float()
    assert (drawn >= box.low).all()
    assert (drawn <= box.high).all()
    share = (drawn[:, 0] - box.low[0]) / (box.high[0] - box.low[0])
    torch.testing.assert_close(share.sort().values, torch.linspace(0, 1, 20_000), atol=0.02, rtol=0)


def test_gaussian_has_exactly_the_data_s_mean_and_covariance() -> None:
    data = correlated()
    gaussian = Gaussian(GaussianSettings(), PORT)
    gaussian.fit(data)
    # The map is affine in the noise: its values at the origin and at the unit vectors give both moments.
    noise = torch.cat([torch.zeros(1, PORT.latent_size), torch.eye(SHAPE.size, PORT.latent_size)])
    flat = gaussian(noise).flatten(1).double()
    root = (flat[1:] - flat[0]).T
    expected = data.images.flatten(1).double()
    torch.testing.assert_close(flat[0], expected.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(root @ root.T, torch.cov(expected.T, correction=0), atol=1e-5, rtol=0)


def test_large_images_keep_the_first_directions_and_the_total_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    data = correlated()
    exact = principal(data, rank=64, device=torch.device("cpu"))
    monkeypatch.setattr(baselines, "FULL_UP_TO", 32)
    torch.manual_seed(0)
    found = principal(data, rank=8, device=torch.device("cpu"))
    torch.testing.assert_close(found.variances, exact.variances[:8], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.rest, exact.variances[8:].sum() / 56, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.directions.T @ found.directions, torch.eye(8).double())

    gaussian = Gaussian(GaussianSettings(components=8), PORT)
    gaussian.fit(data)
    noise = torch.eye(SHAPE.size, PORT.latent_size)
    root = (gaussian(noise) - gaussian(torch.zeros(1, PORT.latent_size))).flatten(1).double()
    total = data.images.flatten(1).double().var(0, correction=0).sum()
    torch.testing.assert_close(root.square().sum(), total, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dimensions", [64, 12])
def test_mixture_has_the_data_s_mean_and_total_variance(dimensions: int) -> None:
    """After every round of EM the mixture has the data's first two moments; the floor adds to each variance."""
    data = correlated()
    torch.manual_seed(0)
    mixture = Mixture(MixtureSettings(components=3, dimensions=dimensions, variance_floor=1e-6, iterations=20), PORT)
    mixture.fit(data)
    drawn, expected = draws(mixture, 20_000), data.images.flatten(1).double()
    torch.testing.assert_close(drawn.mean(0), expected.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(0).sum(), expected.var(0).sum(), rtol=0.02, atol=0)


def test_mixture_finds_two_heaps_and_draws_from_each_at_its_share() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.where(torch.arange(300) < 75, 0.5, -0.5)[:, None, None, None]
    data = Images(centre + 0.05 * torch.randn(300, 1, 8, 8, generator=generator))
    torch.manual_seed(0)
    mixture = Mixture(MixtureSettings(components=2, variance_floor=1e-6), PORT)
    mixture.fit(data)
    level = draws(mixture, 4000).mean(1)
    assert (level.abs() - 0.5).abs().max() < 0.1
    assert (level > 0).double().mean().item() == pytest.approx(0.25, abs=0.03)


def test_fewer_images_than_components_is_told() -> None:
    with pytest.raises(UserError, match="components is 10, but EM has only 4 images"):
        Mixture(MixtureSettings(), PORT).fit(correlated(4))


def test_fitting_is_a_function_of_torch_s_seed() -> None:
    def fitted() -> torch.Tensor:
        torch.manual_seed(3)
        mixture = Mixture(MixtureSettings(components=2), PORT)
        mixture.fit(correlated())
        return mixture.centres

    assert torch.equal(fitted(), fitted())


@pytest.mark.parametrize("name", ["box", "gaussian", "mixture", "kernel-density"])
def test_a_baseline_is_no_decoder(name: str) -> None:
    """It fits itself, and its latent is as long as an image; else its first step would end in a traceback."""
    with pytest.raises(UserError, match=r"recipes.a: .*one more, 257, not 8; choose the objective closed-form"):
        resolve("a", {"from": "vae", "networks": {"decoder": {"name": name}}})
