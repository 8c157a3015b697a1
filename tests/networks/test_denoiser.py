"""The schedules, and the algebra between the two conventions: noisy = clean + sigma * noise, and Ho's x_t."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genforge.contracts import ImageShape, Port
from genforge.networks.ddpm import DDPMDenoiser, DDPMSettings, kept_signal
from genforge.settings import UserError
from tests.networks.network_cases import Echo

SHAPE = ImageShape(1, 8, 8)
PREDICTIONS = ("noise", "image", "velocity")


def denoiser(answer: Tensor | None = None, **settings: object) -> DDPMDenoiser:
    backbone = Echo(torch.zeros(1) if answer is None else answer)
    return DDPMDenoiser(DDPMSettings.read(settings, "test"), Port("denoiser", SHAPE), backbone)


def test_linear_schedule_is_ho_s() -> None:
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(kept_signal("linear", 1000), (1 - beta).cumprod(0))


def test_cosine_schedule_is_its_closed_form_and_its_last_beta_is_cut() -> None:
    place = torch.arange(1, 1001, dtype=torch.float64) / 1000

    def target(t: Tensor) -> Tensor:
        return torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2

    expected = target(place) / target(torch.zeros(1, dtype=torch.float64))
    kept = kept_signal("cosine", 1000)
    torch.testing.assert_close(kept[:-1], expected[:-1])
    assert (kept[-1] / kept[-2]).item() == pytest.approx(1 - 0.999)  # Nichol & Dhariwal 2021, section 3.2


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [100, 1000, 4000])
def test_noise_grows_from_almost_nothing_to_almost_everything(schedule: str, timesteps: int) -> None:
    sigmas = denoiser(schedule=schedule, timesteps=timesteps).sigmas
    assert (sigmas.diff() > 0).all()
    assert sigmas[0] < 0.05
    assert sigmas[-1] > 30


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_what_the_backbone_sees_has_ho_s_variance(schedule: str) -> None:
    """q(x_t | x_0) = N(sqrt(a_t) x_0, (1 - a_t) I): Ho et al. 2020, eq. 4."""
    network = denoiser(schedule=schedule)
    kept = kept_signal(schedule, 1000)  # type: ignore[arg-type]
    torch.testing.assert_close(network.scales(network.sigmas).input.double(), kept.sqrt(), rtol=1e-5, atol=1e-7)
    noise_share = (network.sigmas.double() * network.scales(network.sigmas).input.double()) ** 2
    torch.testing.assert_close(noise_share, 1 - kept, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.02, 1.0, 50.0])
def test_a_perfect_backbone_gives_the_clean_image(prediction: str, sigma: float) -> None:
    torch.manual_seed(0)
    clean, noise = torch.rand(4, 1, 8, 8).double() * 2 - 1, torch.randn(4, 1, 8, 8).double()
    alpha = 1 / (1 + sigma**2) ** 0.5
    answer = {"noise": noise, "image": clean, "velocity": alpha * noise - alpha * sigma * clean}[prediction]
    network = denoiser(answer, prediction=prediction).double()
    levels = torch.full((4,), sigma, dtype=torch.float64)
    torch.testing.assert_close(network(clean + sigma * noise, levels), clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_the_weighted_error_is_the_backbone_s_own(prediction: str, sigma: float) -> None:
    torch.manual_seed(0)
    clean, noise, error = (torch.randn(4, 1, 8, 8).double() for _ in range(3))
    alpha = 1 / (1 + sigma**2) ** 0.5
    target = {"noise": noise, "image": clean, "velocity": alpha * noise - alpha * sigma * clean}[prediction]
    network = denoiser(target + error, prediction=prediction).double()
    levels = torch.full((4,), sigma, dtype=torch.float64)
    estimate = network(clean + sigma * noise, levels)
    weighted = network.weight(levels)[:, None, None, None] * (estimate - clean).square()
    torch.testing.assert_close(weighted, error.square(), rtol=1e-4, atol=1e-4)


def test_time_is_exact_on_the_schedule_and_rises_between() -> None:
    network = denoiser(timesteps=50)
    torch.testing.assert_close(network.time(network.sigmas), torch.linspace(0, 1, 50), atol=1e-5, rtol=0)
    between = (network.sigmas[:-1] * network.sigmas[1:]).sqrt()
    torch.testing.assert_close(network.time(between), (torch.arange(49) + 0.5) / 49, atol=1e-4, rtol=0)
    assert network.time(torch.tensor([1e-9, 1e9])).tolist() == [0.0, 1.0]


def test_training_meets_every_timestep_equally() -> None:
    network = denoiser(timesteps=20)
    sigmas = network.training_sigma((torch.arange(2000) + 0.5) / 2000)
    assert torch.equal(sigmas.unique(return_counts=True)[1], torch.full((20,), 100))


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 100])
def test_any_number_of_steps_is_a_subset_of_the_schedule(steps: int) -> None:
    network = denoiser(timesteps=100)
    grid = network.sampling_sigmas(steps)
    assert grid.shape == (steps + 1,)
    assert grid[0] == network.sigmas[-1]
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()
    assert torch.isin(grid[:-1], network.sigmas).all()


def test_more_steps_than_timesteps_is_told() -> None:
    with pytest.raises(UserError, match=r"sampler.steps is 101; it should be 1 to 100"):
        denoiser(timesteps=100).sampling_sigmas(101)
