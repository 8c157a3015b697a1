"""The loss is what its papers say, whatever the backbone predicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genforge.catalog import build_network
from genforge.contracts import Batch, ImageShape
from genforge.objectives.denoising import Denoising, DenoisingSettings, evenly_spread

IMAGE = ImageShape(1, 8, 8)


def denoising(prediction: str = "noise", classes: int = 0, **settings: Any) -> Denoising:
    torch.manual_seed(0)
    read = DenoisingSettings.read(settings, "test")
    choice = {"name": "ddpm-denoiser", "prediction": prediction, "backbone": {"name": "unet", "width": 8}}
    return Denoising(
        read, {"denoiser": build_network(choice, Denoising.ports(read, IMAGE, classes)["denoiser"], "test")}
    )


def batch(count: int = 1024) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1, torch.arange(count) % 3)


@pytest.mark.parametrize("prediction", ["noise", "image", "velocity"])
def test_a_new_network_s_loss_is_its_target_s_power(prediction: str) -> None:
    """The backbone begins at zero, so the loss is the mean square of what it should predict: 1 for noise, the images'
    for images, and for the velocity alpha * noise - sigma_t * clean the mean of alpha^2 + sigma_t^2 E[clean^2]."""
    objective, images = denoising(prediction), batch()
    with torch.no_grad():
        value = objective.loss(objective.players[0], images).value.item()
    power = images.images.square().mean().item()
    alpha_squared = (1 / (1 + objective.denoiser.sigmas.double() ** 2)).mean().item()
    expected = {"noise": 1.0, "image": power, "velocity": alpha_squared + (1 - alpha_squared) * power}[prediction]
    assert value == pytest.approx(expected, rel=0.03)


def test_min_snr_weighs_the_clean_image_the_same_whatever_is_predicted() -> None:
    sigma = torch.tensor([0.01, 0.4, 0.5, 2.0])
    for prediction in ("noise", "image", "velocity"):
        objective = denoising(prediction, weighting="min-snr", snr_limit=5.0)
        weights = objective._weight(sigma, objective.denoiser)
        torch.testing.assert_close(weights, torch.tensor([5.0, 5.0, 4.0, 0.25]))


@pytest.mark.parametrize("prediction", ["noise", "image", "velocity"])
def test_min_snr_is_the_paper_s_weight_of_the_backbone_s_own_error(prediction: str) -> None:
    """Hang et al. 2023, section 3.4: min(SNR, 5) on the image, divided by SNR on the noise, by SNR + 1 on the velocity.
    The error of the clean image is `out` times the backbone's."""
    sigma = torch.logspace(-2, 2, 9)
    snr = sigma**-2
    objective = denoising(prediction, weighting="min-snr")
    own = objective._weight(sigma, objective.denoiser) * objective.denoiser.scales(sigma).out ** 2
    divisor = {"noise": snr, "image": torch.ones(9), "velocity": snr + 1}[prediction]
    torch.testing.assert_close(own, snr.clamp(max=5) / divisor)


def test_even_spread_is_uniform_and_fills_every_part() -> None:
    torch.manual_seed(0)
    drawn: Tensor = torch.stack([evenly_spread(8, torch.device("cpu")) for _ in range(2000)])
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert torch.equal((drawn * 8).long().sort(1).values, torch.arange(8).expand(2000, 8))
    torch.testing.assert_close(drawn[:, 3].sort().values, torch.linspace(0, 1, 2000), atol=0.04, rtol=0)


def test_conditional_networks_get_labels() -> None:
    objective = denoising(classes=3, conditional=True)
    assert torch.isfinite(objective.loss(objective.players[0], batch(6)).value)
