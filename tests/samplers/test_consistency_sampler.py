"""Consistency sampling with the consistency function of a Gaussian, which is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genforge import catalog
from genforge.catalog import build_sampler
from genforge.contracts import ImageShape, Port
from genforge.networks.edm import EDMDenoiser
from genforge.samplers.consistency import Consistency
from genforge.settings import UserError
from tests.networks.network_cases import EIGHT, build
from tests.samplers.exact_denoisers import COVARIANCE, MEAN, flow, gaussian

VARIANCES, DIRECTIONS = torch.linalg.eigh(COVARIANCE)


def function(noisy: Tensor, sigma: Tensor) -> Tensor:
    """Where the probability-flow ODE of N(MEAN, COVARIANCE) ends, from noisy at noise level sigma."""
    ratio = (VARIANCES / (VARIANCES + sigma**2)).sqrt()
    return MEAN + ((noisy - MEAN) @ DIRECTIONS * ratio) @ DIRECTIONS.T


def sampler(steps: int) -> Consistency:
    built = build_sampler({"name": "consistency", "steps": steps, "clip": False})
    assert isinstance(built, Consistency)
    return built


def test_the_function_is_where_the_flow_ends() -> None:
    noisy = torch.randn(4, 1, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    torch.testing.assert_close(function(noisy, torch.tensor(3.0)), flow(gaussian, noisy, 3.0, 1e-7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("levels", [[80.0], [80.0, 0.8], [80.0, 5.0, 0.8, 0.1]], ids=str)
def test_any_number_of_steps_gives_the_gaussian_back(levels: list[float]) -> None:
    """The function is affine, so mean and covariance follow from its answers to unit vectors, without chance."""
    steps = len(levels)
    noisy = MEAN.expand(1 + 3 + 3 * steps, 1, 1, 3).clone()
    noisy[1:4, 0, 0] += torch.eye(3)

    def noise(stream: int) -> Tensor:
        impulses = torch.zeros_like(noisy)
        impulses[1 + 3 * stream : 4 + 3 * stream, 0, 0] = torch.eye(3, dtype=torch.float64)
        return impulses

    *_, last = sampler(steps).walk(function, noisy, torch.tensor([*levels, 0.0], dtype=torch.float64), noise)
    answers = last.noisy[:, 0, 0]
    responses = (answers[1:] - answers[0]).view(steps + 1, 3, 3)
    noised = COVARIANCE + levels[0] ** 2 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(answers[0], MEAN)
    covariance = responses[0].T @ noised @ responses[0] + (responses[1:].mT @ responses[1:]).sum(0)
    torch.testing.assert_close(covariance, COVARIANCE)


def test_the_own_grid_leaves_out_the_smallest_level() -> None:
    network = build("edm-denoiser", EIGHT)
    assert isinstance(network, EDMDenoiser) and network.port == Port("denoiser", ImageShape(1, 8, 8))
    assert sampler(1).grid(network).tolist() == [80.0, 0.0]
    assert sampler(2).grid(network).tolist() == pytest.approx([80.0, 2.5152, 0.0], rel=1e-3)  # Karras 2022, eq. 5


def test_what_was_taught_decides_which_samplers_can_draw() -> None:
    """A consistency function is no score, and a score leads to no image at once."""
    shape = ImageShape(1, 8, 8)
    score, jump = Port("denoiser", shape), Port("denoiser", shape, taught="consistency")
    assert catalog.suited("sampler", jump) == ["consistency"]
    assert catalog.suited("sampler", score) == ["ddpm", "ddim", "euler", "heun", "dpm-solver"]
    assert catalog.suited("density", jump) == [] and catalog.suited("density", score) == ["probability-flow"]
    few_step, edm = (catalog.exported(catalog.resolve("a", {"from": name}), shape, 0) for name in ("few-step", "edm"))
    assert (few_step.port, edm.port) == (jump, score)
    assert catalog.Exported.from_json(few_step.to_json()).port == jump  # a trained folder knows it


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (
            {"from": "few-step", "sampler": {"name": "heun"}},
            r"recipes\.a\.sampler\.name: 'heun' cannot draw from a denoiser network that was taught as a consistency "
            r"function, and so knows no score; these can: consistency$",
        ),
        (
            {"from": "edm", "sampler": {"name": "consistency"}},
            r"recipes\.a\.sampler\.name: 'consistency' cannot draw from a denoiser network; these can: ddpm, ddim, ",
        ),
        (
            {"from": "few-step", "density": {"name": "probability-flow"}},
            r"'probability-flow' cannot tell likelihoods of a denoiser network that was taught as a consistency",
        ),
        (
            {"from": "autoguided-edm", "objective": {"name": "consistency"}, "sampler": {"name": "consistency"}},
            r"consistency teaches one denoiser, and an autoguided-denoiser has a guide beside it",
        ),
    ],
    ids=["solver", "jump", "density", "guide"],
)
def test_a_sampler_of_what_was_not_taught_is_refused(entry: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        catalog.resolve("a", entry)
