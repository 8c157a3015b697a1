"""Samplers against Ho et al. 2020, and against a Gaussian, whose denoiser is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genforge import randomness
from genforge.contracts import Draw, ImageShape, Network, Port
from genforge.networks.ddpm import DDPMDenoiser, DDPMSettings, kept_signal
from genforge.samplers.ddim import DDIM, DDIMSettings
from genforge.samplers.ddpm import DDPM, posterior
from genforge.samplers.diffusion import DiffusionSettings
from genforge.settings import Settings
from tests.networks.network_cases import EIGHT, build

SHAPE = ImageShape(1, 1, 4)  # small, so that many can be drawn


class Silent(Network):
    kind = "backbone"
    settings_type = Settings


class ExactGaussian(DDPMDenoiser):
    """E[clean | noisy] for clean ~ N(mean, covariance), for the first three pixels; the fourth is always 0.5."""

    def __init__(self, timesteps: int = 1000) -> None:
        port = Port("denoiser", SHAPE)
        super().__init__(
            DDPMSettings(timesteps=timesteps), port, Silent(Settings(), Port("backbone", SHAPE, outputs=1))
        )
        self.mean = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
        root = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.2, 0.0], [-0.1, 0.1, 0.05]], dtype=torch.float64)
        self.covariance = root @ root.T

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        flat = noisy.flatten(1).double()
        variance = sigma[0].double() ** 2 * torch.eye(3, dtype=torch.float64)
        gain = self.covariance @ torch.linalg.inv(self.covariance + variance)
        clean = torch.full_like(flat, 0.5)
        clean[:, :3] = self.mean + (flat[:, :3] - self.mean) @ gain.T
        return clean.float().view_as(noisy)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    flat = images.flatten(1)[:, :3].double()
    return flat.mean(0), torch.cov(flat.T)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("step", [1, 10, 500, 998])
def test_the_posterior_is_ho_s(schedule: str, step: int) -> None:
    """Eq. 6 and 7 of Ho et al. 2020, in their x_t = x / sqrt(1 + sigma^2) and counted from 0."""
    torch.manual_seed(0)
    kept = kept_signal(schedule, 1000)  # type: ignore[arg-type]
    a, before = kept[step], kept[step - 1]
    alpha = a / before
    beta = 1 - alpha
    clean, x_t = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    expected = before.sqrt() * beta / (1 - a) * clean + alpha.sqrt() * (1 - before) / (1 - a) * x_t
    expected_variance = (1 - before) / (1 - a) * beta

    sigma, following = ((1 - a) / a).sqrt(), ((1 - before) / before).sqrt()
    mean, deviation = posterior(x_t / a.sqrt(), clean, sigma, following)
    torch.testing.assert_close(before.sqrt() * mean, expected)
    torch.testing.assert_close(before * deviation**2, expected_variance)


def test_posterior_and_forward_process_make_the_joint_distribution() -> None:
    """Integrating the posterior over x at sigma gives back N(clean, sigma'^2)."""
    sigma, following = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    slope = (following / sigma) ** 2
    _, deviation = posterior(torch.zeros(1), torch.zeros(1), sigma, following)
    torch.testing.assert_close(slope**2 * sigma**2 + deviation**2, following**2)


@pytest.mark.parametrize(
    "sampler", [DDIM(DDIMSettings(steps=250, clip=False)), DDPM(DiffusionSettings(steps=250, clip=False))]
)
def test_noise_becomes_the_gaussian_that_the_denoiser_knows(sampler: DDIM | DDPM) -> None:
    sampler.clip = False
    network = ExactGaussian().eval()
    mean, covariance = moments(sampler.sample(network, Draw(0, torch.arange(2000))))
    torch.testing.assert_close(mean, network.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(covariance, network.covariance, atol=0.02, rtol=0)


def test_more_steps_come_closer() -> None:
    """DDIM's map of a Gaussian is linear in its noise, so that its error is all discretisation."""
    network = ExactGaussian().eval()
    draw = Draw(0, torch.arange(64))
    exact = DDIM(DDIMSettings(steps=1000, clip=False)).sample(network, draw)
    errors = [
        (DDIM(DDIMSettings(steps=steps, clip=False)).sample(network, draw) - exact).abs().max()
        for steps in (10, 40, 160)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_eta_one_is_ancestral_sampling(steps: int) -> None:
    network = build("ddpm-denoiser", EIGHT).eval()
    draw = Draw(3, torch.arange(5))
    ancestral = DDPM(DiffusionSettings(steps=steps)).sample(network, draw)
    implicit = DDIM(DDIMSettings(steps=steps, eta=1.0)).sample(network, draw)
    torch.testing.assert_close(implicit, ancestral, atol=1e-4, rtol=1e-4)


def test_clipping_keeps_images_in_range_and_can_be_left_out() -> None:
    network = build("ddpm-denoiser", EIGHT).eval()
    draw = Draw(0, torch.arange(16))
    assert DDIM(DDIMSettings(steps=5)).sample(network, draw).abs().max() <= 1
    assert DDIM(DDIMSettings(steps=5, clip=False)).sample(network, draw).abs().max() > 1


def test_the_trajectory_walks_down_the_grid_from_the_image_s_own_noise() -> None:
    network = build("ddpm-denoiser", EIGHT).eval()
    draw = Draw(7, torch.arange(4))
    sampler = DDIM(DDIMSettings(steps=6))
    states = list(sampler.trajectory(network, draw))
    assert isinstance(network, DDPMDenoiser)
    assert [state.sigma for state in states] == network.sampling_sigmas(6)[1:].tolist()
    assert torch.equal(states[-1].noisy, sampler.sample(network, draw))
    first = network(
        network.sigmas[-1] * randomness.normal(7, draw.indices, (1, 8, 8)), network.sigmas[-1].expand(4)
    ).clamp(-1, 1)
    torch.testing.assert_close(states[0].clean, first)
