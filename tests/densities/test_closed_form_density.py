"""The baselines' densities against torch.distributions, against their integral, and against counting."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from genforge.contracts import CELL, Draw, ImageShape, Port, to_network
from genforge.densities.closed_form import ClosedFormDensity, ClosedFormDensitySettings
from genforge.networks.baselines import (
    Baseline,
    Box,
    BoxSettings,
    Gaussian,
    GaussianSettings,
    Mixture,
    MixtureSettings,
    latent_size,
)
from genforge.networks.kernel_density import KernelDensity, KernelDensitySettings, likeliest_bandwidth
from genforge.networks.mlp import Generator, GeneratorSettings
from genforge.settings import UserError
from tests.networks.network_cases import Images

PLANE = ImageShape(1, 1, 2)  # images of two values: points of a plane
SHAPE = ImageShape(1, 8, 8)


def port(image: ImageShape) -> Port:
    return Port("latent_to_image", image, latent_size=latent_size(image))


def fitted(image: ImageShape, images: Tensor) -> list[Baseline]:
    torch.manual_seed(0)
    networks: list[Baseline] = [
        Box(BoxSettings(), port(image)),
        Gaussian(GaussianSettings(), port(image)),
        Mixture(MixtureSettings(components=2, dimensions=min(image.size, 12)), port(image)),
        KernelDensity(KernelDensitySettings(images=400), port(image)),  # more than there are
    ]
    for network in networks:
        network.fit(Images(images))
    return networks


def heaps(count: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centre = torch.where(torch.arange(count) < count // 4, 0.4, -0.3)[:, None, None, None]
    return centre + torch.tensor([0.05, 0.2]) * torch.randn(count, 1, 1, 2, generator=generator)


@pytest.mark.parametrize("cell", [0.0, 0.1])
def test_densities_integrate_to_one(cell: float) -> None:
    axis = torch.linspace(-2, 2, 321, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    for network in fitted(PLANE, heaps()):
        mass = network.log_density(points, cell).exp().sum().item() * (4 / 320) ** 2
        assert mass == pytest.approx(1.0, abs=0.01), type(network).__name__


def test_the_gaussian_s_density_is_torch_s_with_the_variance_of_the_noise_added() -> None:
    generator = torch.Generator().manual_seed(1)
    images = 0.3 * torch.randn(300, 1, 8, 8, generator=generator)
    images[:, :, 0] = -1.0  # pixels that never vary
    _, gaussian, *_ = fitted(SHAPE, images)
    flat = images.flatten(1).double()
    covariance = torch.cov(flat.T, correction=0) + 0.05**2 / 12 * torch.eye(64)
    expected = MultivariateNormal(flat.mean(0), covariance).log_prob(flat[:10])
    torch.testing.assert_close(gaussian.log_density(flat[:10], cell=0.05), expected, rtol=1e-5, atol=1e-3)


def test_the_mixture_s_density_is_the_sum_over_its_components_in_all_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    images = 0.3 * torch.randn(100, 1, 8, 8, generator=generator)
    _, _, mixture, _ = fitted(SHAPE, images)
    assert isinstance(mixture, Mixture)
    flat, directions = images.flatten(1).double(), mixture.directions.double()
    beside = mixture.rest.double() ** 2 * (torch.eye(64) - directions @ directions.T)
    told = []
    for share, centre, factor in zip(mixture.shares, mixture.centres.double(), mixture.factors.double(), strict=True):
        covariance = directions @ factor @ factor.T @ directions.T + beside + 0.05**2 / 12 * torch.eye(64)
        normal = MultivariateNormal(mixture.mean + directions @ centre, (covariance + covariance.T) / 2)
        told.append(share.log() + normal.log_prob(flat))
    expected = torch.stack(told).logsumexp(0)
    torch.testing.assert_close(mixture.log_density(flat, cell=0.05), expected, rtol=1e-5, atol=1e-3)


def test_the_kernel_density_is_scikit_learn_s_at_the_likeliest_bandwidth() -> None:
    from sklearn.neighbors import KernelDensity as Neighbours

    images = heaps(60)
    *_, kernel = fitted(PLANE, images)
    assert isinstance(kernel, KernelDensity)
    flat = images.flatten(1).double()
    theirs = Neighbours(bandwidth=kernel.bandwidth.item()).fit(flat.numpy()).score_samples(flat.numpy() + 0.01)
    torch.testing.assert_close(kernel.log_density(flat + 0.01), torch.from_numpy(theirs), rtol=1e-4, atol=1e-4)

    def left_out(bandwidth: float) -> float:
        each = torch.arange(len(flat))
        return sum(
            Neighbours(bandwidth=bandwidth).fit(flat[each != one].numpy()).score(flat[one : one + 1].numpy())
            for one in each
        )

    best = likeliest_bandwidth(flat).item()
    assert left_out(best) > max(left_out(1.05 * best), left_out(best / 1.05))


def test_images_are_taken_evenly_across_chunks() -> None:
    data = Images(torch.arange(3000.0).view(-1, 1, 1, 1).expand(-1, 1, 1, 2))
    kernel = KernelDensity(KernelDensitySettings(images=450), port(PLANE))
    kernel.fit(data)
    assert kernel.images[:429, 0].tolist() == list(range(0, 3000, 7))
    assert kernel.shares.count_nonzero() == 429


def test_a_kernel_density_draws_around_its_images_and_never_around_an_empty_place() -> None:
    images = 0.5 + 0.001 * torch.randn(30, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    *_, kernel = fitted(PLANE, images)
    drawn = kernel(torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)))
    assert (drawn - 0.5).abs().max() < 0.05
    with pytest.raises(UserError, match="all training images are the same"):
        kernel.fit(Images(torch.zeros(5, 1, 1, 2)))


def pixels(*values: int) -> Tensor:
    return to_network(torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 1).contiguous())


def told(network: Baseline, images: Tensor, **settings: float) -> Tensor:
    density = ClosedFormDensity(ClosedFormDensitySettings.read(settings, "test"))
    density.check(network)
    return density.log_likelihood({"network": network}, images, Draw(0, torch.arange(len(images))))


def test_the_box_of_8_bit_images_is_uniform_over_the_levels_between_its_ends() -> None:
    box, *_ = fitted(ImageShape(1, 1, 2), pixels(10, 19, 12).view(3, 1, 1, 2))
    images = pixels(10, 14, 19, 9, 20).view(5, 1, 1, 2)
    probability = told(box, images, noise=1e-9).exp()
    torch.testing.assert_close(probability[:3], torch.full((3,), 0.01).double(), rtol=1e-5, atol=0)  # 10 levels, twice
    torch.testing.assert_close(probability[3:], torch.full((2,), 1e-9 / 256**2).double(), rtol=1e-5, atol=0)


def test_probabilities_of_all_8_bit_images_sum_to_one() -> None:
    """Of images of one value there are 256."""
    image = ImageShape(1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(100, 140, (50, 1, 1, 1), generator=generator).to(torch.uint8)
    every = to_network(torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1))
    for network in fitted(image, to_network(levels)):
        total = told(network, every, draws=50, noise=0.1).exp().sum().item()
        assert total == pytest.approx(1.0, abs=0.01), type(network).__name__


def test_a_pixel_that_never_varied_costs_nothing_where_it_is_as_ever_and_at_most_8_bits_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    images = (0.3 * torch.randn(300, 1, 8, 8, generator=generator)).clamp(-1, 1)
    images[:, :, :, 0] = -1.0
    odd = images[:1].clone()
    odd[:, :, 3, 0] = 1.0
    for network in fitted(SHAPE, images):
        usual, other = told(network, torch.cat([images[:1], odd]))
        assert torch.isfinite(usual) and usual > other
        assert other >= math.log(0.001) - 64 * math.log(256) - 1e-6


def test_images_are_shown_with_uniform_noise_as_wide_as_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    images = 0.5 * torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (network, *_), seen = fitted(SHAPE, images), []

    def listening(flat: Tensor, cell: float = 0.0) -> Tensor:
        seen.append((flat, cell))
        return torch.zeros(len(flat)).double()

    monkeypatch.setattr(network, "log_density", listening)
    told(network, images)
    ((shown, cell),) = seen
    noise = shown - images.flatten(1).double()
    assert cell == CELL and noise.abs().max() <= CELL / 2 + 1e-9
    assert noise.var().item() == pytest.approx(CELL**2 / 12, rel=0.03)


def test_a_network_that_is_no_baseline_is_told() -> None:
    generator = Generator(GeneratorSettings(widths=(8,)), Port("latent_to_image", SHAPE, latent_size=4))
    with pytest.raises(UserError, match="'closed-form' tells likelihoods of baselines"):
        ClosedFormDensity(ClosedFormDensitySettings()).check(generator)
