"""What backbones of EDM, flow matching and DDPM are to give: closed forms, and one denoiser seen in different units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genforge.catalog import build_network
from genforge.contracts import ImageShape, Port
from genforge.networks.denoiser import Denoiser, karras_levels
from genforge.networks.edm import EDMSettings
from genforge.settings import UserError
from tests.networks.network_cases import Echo

SHAPE = ImageShape(1, 8, 8)
LEVELS = torch.logspace(-2, 2, 9, dtype=torch.float64)
CHOICES = {
    "noise": {"name": "ddpm-denoiser", "prediction": "noise"},
    "image": {"name": "ddpm-denoiser", "prediction": "image"},
    "velocity": {"name": "ddpm-denoiser", "prediction": "velocity", "schedule": "linear"},
    "edm": {"name": "edm-denoiser"},
    "flow": {"name": "flow-matching-denoiser"},
}


def denoiser(name: str, **settings: object) -> Denoiser:
    choice = {**CHOICES[name], "backbone": {"name": "unet", "width": 8}, **settings}
    network = build_network(choice, Port("denoiser", SHAPE), "test")
    assert isinstance(network, Denoiser)
    return network


def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Clean images and standard normal noise, (9, 1, 8, 8) each, and a noise level of each, (9, 1, 1, 1)."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 9, 1, 8, 8, generator=generator, dtype=torch.float64)
    return 0.5 * clean, noise, LEVELS[:, None, None, None]


def target(network: Denoiser, clean: Tensor, noisy: Tensor) -> Tensor:
    """What a perfect backbone gives: eq. 7 of Karras et al. 2022, solved for F."""
    scales = network.scales(LEVELS)
    return (clean - scales.skip[:, None, None, None] * noisy) / scales.out[:, None, None, None]


@pytest.mark.parametrize("name", list(CHOICES))
def test_a_perfect_backbone_gives_what_its_paper_says(name: str) -> None:
    clean, noise, sigma = pair()
    alpha, angle_sine = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    expected = {
        "noise": noise,  # Ho et al. 2020, eq. 14
        "image": clean,
        "velocity": alpha * noise - angle_sine * clean,  # Salimans & Ho 2022, section 4
        "flow": noise - clean,  # Lipman et al. 2022, eq. 23, with their time turned round
        "edm": (sigma * clean - 0.25 / sigma * (sigma * noise)) / (0.5 * (sigma**2 + 0.25).sqrt()),
    }[name]
    torch.testing.assert_close(target(denoiser(name).double(), clean, clean + sigma * noise), expected)


@pytest.mark.parametrize("taught", list(CHOICES))
@pytest.mark.parametrize("asked", list(CHOICES))
def test_one_denoiser_passes_from_one_parameterisation_to_another_and_back(taught: str, asked: str) -> None:
    clean, noise, sigma = pair()
    noisy, estimate = clean + sigma * noise, 0.9 * clean  # an estimate that is not perfect
    for name in (taught, asked, taught):
        network = denoiser(name).double()
        network.backbone = Echo(target(network, estimate, noisy))
        torch.testing.assert_close(network(noisy, LEVELS), 0.9 * clean, atol=1e-4, rtol=1e-4)
        estimate = network(noisy, LEVELS)


@pytest.mark.parametrize("name", list(CHOICES))
def test_the_backbone_sees_what_its_paper_trains_on(name: str) -> None:
    clean, noise, sigma = pair()
    network = denoiser(name).double()
    network.backbone = given = Echo(torch.zeros_like(clean))
    network(clean + sigma * noise, LEVELS)
    kept, time = 1 / (1 + sigma**2), sigma / (1 + sigma)
    ho = kept.sqrt() * clean + (1 - kept).sqrt() * noise  # Ho et al. 2020, eq. 4
    expected = {"flow": (1 - time) * clean + time * noise, "edm": (clean + sigma * noise) / (sigma**2 + 0.25).sqrt()}
    torch.testing.assert_close(given.images, expected.get(name, ho))
    if name in ("flow", "edm"):
        told = {"flow": LEVELS / (1 + LEVELS), "edm": LEVELS.log() / 4}[name]
        torch.testing.assert_close(given.time, told)


def test_edm_s_backbone_sees_and_gives_unit_variance() -> None:
    """Karras et al. 2022, appendix B.6, for clean images of variance s^2 independent of the noise."""
    data = 0.7
    scales = denoiser("edm", sigma_data=data).scales(LEVELS)
    torch.testing.assert_close(scales.input**2 * (data**2 + LEVELS**2), torch.ones_like(LEVELS))
    target_variance = ((1 - scales.skip) ** 2 * data**2 + scales.skip**2 * LEVELS**2) / scales.out**2
    torch.testing.assert_close(target_variance, torch.ones_like(LEVELS))
    for moved in (scales.skip - 0.01, scales.skip + 0.01):  # no other skip needs a smaller out
        assert ((1 - moved) ** 2 * data**2 + moved**2 * LEVELS**2 > scales.out**2).all()


def test_edm_s_skip_is_the_best_denoiser_of_a_gaussian() -> None:
    """For clean ~ N(0, s^2) the expectation of clean given noisy is s^2 / (s^2 + sigma^2) noisy: nothing is left for
    the backbone, which begins at zero."""
    clean, noise, sigma = pair()
    network = denoiser("edm").double()
    noisy = clean + sigma * noise
    torch.testing.assert_close(network(noisy, LEVELS), 0.25 / (0.25 + sigma**2) * noisy)


def test_weights_are_the_papers() -> None:
    data = 0.7
    karras = (LEVELS**2 + data**2) / (LEVELS * data) ** 2  # table 1, last column
    torch.testing.assert_close(denoiser("edm", sigma_data=data).weight(LEVELS), karras)
    time = LEVELS / (1 + LEVELS)
    torch.testing.assert_close(denoiser("flow").weight(LEVELS), time**-2)
    snr = LEVELS**-2  # Hang et al. 2023, section 3.2: the weights of the clean image's error
    torch.testing.assert_close(denoiser("noise").double().weight(LEVELS), snr)
    torch.testing.assert_close(denoiser("image").double().weight(LEVELS), torch.ones_like(LEVELS))
    torch.testing.assert_close(denoiser("velocity").double().weight(LEVELS), snr + 1)


def test_edm_trains_on_log_normal_noise() -> None:
    """Its quantiles: P_mean + z P_std at z of 0, 1 and -1."""
    uniform = torch.special.ndtr(torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64))
    log_sigma = denoiser("edm").training_sigma(uniform).log()
    torch.testing.assert_close(log_sigma, torch.tensor([-1.2, 0.0, -2.4], dtype=torch.float64))


@pytest.mark.parametrize("choice", [("edm", {}), ("flow", {}), ("flow", {"times": "logit-normal"}), ("noise", {})])
def test_training_noise_is_finite_and_rises_up_to_the_ends_of_the_distribution(choice: tuple[str, dict]) -> None:
    uniform = torch.tensor([0.0, 2.0**-24, 0.1, 0.5, 0.9, 1 - 2.0**-24])
    sigma = denoiser(choice[0], **choice[1]).training_sigma(uniform)
    assert torch.isfinite(sigma).all() and (sigma > 0).all()
    assert (sigma.diff() >= 0).all() and (sigma[1:5].diff()[1:] > 0).all()
    assert torch.isfinite(denoiser(choice[0]).weight(sigma)).all()


def test_flow_matching_trains_on_even_times() -> None:
    sigma = denoiser("flow").training_sigma(torch.linspace(0, 1, 5))
    torch.testing.assert_close(sigma / (1 + sigma), torch.tensor([0.001, 0.2505, 0.5, 0.7495, 0.999]))
    logit_normal = denoiser("flow", times="logit-normal").training_sigma(torch.special.ndtr(torch.tensor([1.0])))
    torch.testing.assert_close(logit_normal.log(), torch.tensor([1.0]))  # sigma = t / (1 - t): log sigma is the logit


@pytest.mark.parametrize("steps", [1, 2, 7, 1500])
@pytest.mark.parametrize("name", ["edm", "flow"])
def test_grids_fall_from_the_largest_level_to_zero(name: str, steps: int) -> None:
    network = denoiser(name)
    grid = network.sampling_sigmas(steps)
    assert grid.shape == (steps + 1,) and grid.dtype == torch.float32
    assert grid[0].item() == pytest.approx(network.sigma_range()[1])
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()


def test_edm_s_grid_is_its_eq_5() -> None:
    torch.testing.assert_close(karras_levels(1.0, 256.0, 3, rho=8.0), torch.tensor([256.0, 1.5**8, 1.0]).double())
    grid = denoiser("edm").sampling_sigmas(18)
    torch.testing.assert_close(grid[:-1], karras_levels(0.002, 80.0, 18).float())


def test_flow_matching_s_grid_is_even_in_time() -> None:
    grid = denoiser("flow", latest=0.9).sampling_sigmas(3).double()
    torch.testing.assert_close(grid / (1 + grid), torch.tensor([0.9, 0.6, 0.3, 0.0]).double(), atol=1e-6, rtol=0)


def test_levels_in_the_wrong_order_are_told() -> None:
    with pytest.raises(UserError, match=r"sigma_min below sigma_max, not 3\.0 and 2\.0"):
        EDMSettings.read({"sigma_min": 3.0, "sigma_max": 2.0}, "networks.denoiser")
