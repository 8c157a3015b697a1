"""Image to image and inpainting, by every sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genforge.catalog import SAMPLERS, build_sampler, target
from genforge.contracts import Draw, ImageShape, Network, Port
from genforge.networks.edm import EDMDenoiser, EDMSettings
from genforge.samplers.diffusion import DiffusionSampler
from genforge.samplers.editing import edit
from genforge.settings import Settings, UserError

ALL = sorted(name for name in SAMPLERS if "denoiser" in target("sampler", name).kinds)
SHAPE = ImageShape(1, 1, 2)


class Backbone(Network):
    kind = "backbone"
    settings_type = Settings


class Pair(EDMDenoiser):
    """The exact denoiser of two pixels from N(0, [[1, correlation], [correlation, 1]] / 4)."""

    def __init__(self, correlation: float) -> None:
        super().__init__(EDMSettings(), Port("denoiser", SHAPE), Backbone(Settings(), Port("backbone", SHAPE)))
        self.register_buffer("covariance", torch.tensor([[1.0, correlation], [correlation, 1.0]]).double() / 4)

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        assert isinstance(self.covariance, Tensor)
        gain = self.covariance @ torch.linalg.inv(self.covariance + sigma[0] ** 2 * torch.eye(2).double())
        return (noisy.double() @ gain.T).float()


def sampler(name: str, **settings: Any) -> DiffusionSampler:
    built = build_sampler({"name": name, "clip": False, "steps": 30, **settings})
    assert isinstance(built, DiffusionSampler)
    return built


def pictures(left: float, right: float, count: int = 400) -> Tensor:
    return torch.tensor([left, right]).expand(count, 1, 1, 2)


LEFT = torch.tensor([True, False])


@pytest.mark.parametrize("name", ALL)
def test_kept_pixels_are_the_picture_s_and_lead_the_others(name: str) -> None:
    """The right pixel, correlated with the left one, follows it; what the picture has in the hole has no part in it."""
    network, draw = Pair(0.9).eval(), Draw(0, torch.arange(400))
    high = edit(sampler(name), network, draw, pictures(0.8, 5.0), LEFT)
    low = edit(sampler(name), network, draw, pictures(-0.8, -5.0), LEFT)
    assert (high[..., 0] == 0.8).all() and (low[..., 0] == -0.8).all()
    assert high[..., 1].mean() > 0.3 and low[..., 1].mean() < -0.3


@pytest.mark.parametrize("name", ALL)
def test_pixels_that_know_nothing_of_the_kept_ones_are_drawn_as_ever(name: str) -> None:
    network, draw = Pair(0.0).eval(), Draw(3, torch.arange(50))
    edited = edit(sampler(name), network, draw, pictures(0.8, 0.0, 50), LEFT)
    torch.testing.assert_close(edited[..., 1], sampler(name).sample(network, draw)[..., 1])


@pytest.mark.parametrize("name", ALL)
def test_nothing_kept_and_no_level_is_sampling_and_everything_kept_is_the_picture(name: str) -> None:
    network, draw = Pair(0.5).eval(), Draw(3, torch.arange(20))
    given = torch.rand(20, 1, 1, 2)
    torch.testing.assert_close(edit(sampler(name), network, draw, given), sampler(name).sample(network, draw))
    assert torch.equal(edit(sampler(name), network, draw, given, keep=torch.tensor(True)), given)


@pytest.mark.parametrize("name", ALL)
def test_the_level_says_how_much_of_the_picture_is_left(name: str) -> None:
    network, draw = Pair(0.5).eval(), Draw(3, torch.arange(200))
    given = pictures(0.6, -0.4, 200)
    distances = [
        (edit(sampler(name), network, draw, given, sigma=sigma).mean(0) - given[0]).abs().max()
        for sigma in (0.01, 0.5, 80.0)
    ]
    assert distances[0] < 0.02 < 0.1 < distances[1] < distances[2]


def test_a_gaussian_picture_comes_back_in_closed_form() -> None:
    """N(0, s^2) pixels, covered by sigma z and brought back along the ODE: (picture + sigma z) s / sqrt(s^2 + sigma^2),
    up to what is left at the smallest level."""
    from genforge import randomness

    network, draw = Pair(0.0).eval(), Draw(1, torch.arange(30))
    solver = sampler("heun", sigmas=tuple(torch.linspace(1.0, 0.0021, 200).tolist()))
    edited = edit(solver, network, draw, pictures(0.6, -0.4, 30), sigma=1.0)
    covered = pictures(0.6, -0.4, 30) + randomness.normal(1, draw.indices, (1, 1, 2))
    torch.testing.assert_close(edited, covered * 0.5 / (0.25 + 1.0) ** 0.5, atol=1e-3, rtol=1e-3)


def test_an_image_is_the_same_at_any_batch_size() -> None:
    network, given = Pair(0.5).eval(), torch.rand(6, 1, 1, 2)
    whole = edit(sampler("ddpm"), network, Draw(1, torch.arange(6)), given, LEFT, sigma=2.0)
    part = edit(sampler("ddpm"), network, Draw(1, torch.tensor([4])), given[4:5], LEFT, sigma=2.0)
    torch.testing.assert_close(part, whole[4:5])


def test_a_level_below_the_grid_is_told() -> None:
    with pytest.raises(UserError, match=r"sigma is 0\.001; it should be at least 0\.002"):
        edit(sampler("heun"), Pair(0.5).eval(), Draw(1, torch.arange(2)), pictures(0.0, 0.0, 2), sigma=0.001)
