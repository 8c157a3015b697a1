"""The bound against a model whose likelihood is known: a linear one, with normal latent and normal pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from genforge import catalog
from genforge.contracts import CELL, Draw, ImageShape, Network, Port
from genforge.densities.importance_weighted import ImportanceWeighted, ImportanceWeightedSettings
from genforge.networks.pixels import GaussianPixels, GaussianPixelsSettings
from genforge.settings import Settings, UserError

SHAPE = ImageShape(1, 2, 2)
SIGMA = 0.4  # of pixels: so wide that a level's mass is its density times the cell
WEIGHTS = torch.tensor([[0.3, 0.1], [-0.2, 0.2], [0.1, 0.3], [0.25, -0.1]])  # (pixels, latent)


class Linear(Network):
    kind = "latent_to_image"
    settings_type = Settings

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        return (latent @ WEIGHTS.T).view(-1, 1, 2, 2)


class Posterior(Network):
    """The exact means; the variances of its normal are the exact ones' diagonal, times `wider`."""

    kind = "image_to_vector"
    settings_type = Settings
    wider = 1.0

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        covariance = (torch.eye(2) + WEIGHTS.T @ WEIGHTS / SIGMA**2).inverse()
        mean = images.flatten(1) @ WEIGHTS @ covariance / SIGMA**2
        return torch.cat([mean, (covariance.diagonal() * self.wider).log().expand_as(mean)], dim=1)


def model(wider: float = 1.0) -> dict[str, Network]:
    encoder = Posterior(Settings(), Port("image_to_vector", SHAPE, outputs=4))
    encoder.wider = wider
    settings = GaussianPixelsSettings(scale="fixed", sigma=SIGMA)
    return {
        "decoder": Linear(Settings(), Port("latent_to_image", SHAPE, latent_size=2)),
        "encoder": encoder,
        "pixels": GaussianPixels(settings, Port("pixels", SHAPE)).eval(),
    }


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    exact = 0.4 * torch.randn(count, 1, 2, 2, generator=generator).clamp(-2, 2)
    return ((exact + 1) / CELL).round() * CELL - 1


def told(samples: int, count: int = 40, wider: float = 1.0) -> Tensor:
    density = ImportanceWeighted(ImportanceWeightedSettings(samples=samples))
    return density.log_likelihood(model(wider), images(count), Draw(3, torch.arange(count)))


def exact(count: int = 40) -> Tensor:
    covariance = WEIGHTS @ WEIGHTS.T + SIGMA**2 * torch.eye(4)
    normal = MultivariateNormal(torch.zeros(4).double(), covariance.double())
    return normal.log_prob(images(count).flatten(1).double()) + 4 * torch.log(torch.tensor(CELL))


def test_with_many_samples_it_is_the_likelihood() -> None:
    torch.testing.assert_close(told(300).mean(), exact().mean(), atol=0.01, rtol=0)
    torch.testing.assert_close(told(300, wider=2.0), exact(), atol=0.3, rtol=0)


def test_it_rises_with_samples_and_from_below() -> None:
    bounds = [told(samples, count=400, wider=3.0).mean().item() for samples in (1, 4, 32)]
    assert bounds[0] + 0.1 < bounds[1] < bounds[2] - 0.01
    assert bounds[2] < exact(400).mean().item() + 0.02


def test_it_says_how_many_samples_and_of_what() -> None:
    density = ImportanceWeighted(ImportanceWeightedSettings(samples=7))
    assert not density.exact and density.how == "importance-weighted bound, 7 samples"
    assert density.of(model()) == "8-bit images"
    assert ImportanceWeighted(ImportanceWeightedSettings(samples=1)).how == "evidence lower bound, 1 sample"


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("hinge-sngan", {"density": {"name": "importance-weighted"}}, "asks for encoder and pixels .* 'adversarial'"),
        ("autoencoder", {"density": {"name": "importance-weighted"}}, "asks for pixels beside"),
        ("ddpm", {"density": {"name": "importance-weighted"}}, "cannot tell likelihoods of a denoiser network"),
        ("vae", {"density": {"name": "importance-weigted"}}, "did you mean `importance-weighted`"),
        ("vae", {"density": {"samples": 0}}, r"density\.samples: 0"),
        ("vae", {"density": {"name": "closed-form"}}, "tells likelihoods of baselines"),
    ],
)
def test_a_density_that_does_not_suit_is_told_before_any_work(name: str, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        catalog.resolve("test", {"from": name, **entry})
