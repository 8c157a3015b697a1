"""The solvers against denoisers that are known exactly: orders of convergence, equalities, and what reverses what."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from genforge.catalog import build_sampler
from genforge.contracts import Draw, ImageShape, Network, Port
from genforge.networks.ddpm import DDPMDenoiser
from genforge.networks.denoiser import Denoiser, PathName, karras_levels
from genforge.networks.edm import EDMDenoiser
from genforge.networks.flow_matching import FlowMatchingDenoiser
from genforge.samplers import paths
from genforge.samplers.diffusion import DiffusionSampler
from genforge.settings import Settings, UserError
from tests.samplers.exact_denoisers import COVARIANCE, MEAN, flow, gaussian, mixture, walked

PATHS: tuple[PathName, ...] = ("exploding", "straight", "preserving")
SHAPE = ImageShape(1, 1, 3)


def sampler(name: str, **settings: Any) -> DiffusionSampler:
    built = build_sampler({"name": name, "clip": False, **settings})
    assert isinstance(built, DiffusionSampler)
    return built


def start(sigma: float, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return sigma * torch.randn(count, 1, 1, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("order", "choice"),
    [(1, {"name": "ddim"}), (2, {"name": "dpm-solver"})]
    + [(1, {"name": "euler", "path": path}) for path in PATHS]
    + [(2, {"name": "heun", "path": path}) for path in PATHS],
    ids=str,
)
def test_order_of_convergence(order: int, choice: dict[str, Any]) -> None:
    """Twice the steps, 2^-order of the error, against SciPy's solution for a mixture of Gaussians."""
    noisy, solver = start(5.0), sampler(**choice)
    exact = flow(mixture, noisy, 5.0, 0.1)
    errors = []
    for steps in (40, 80, 160):
        before_the_last = walked(solver, mixture, noisy, karras_levels(0.1, 5.0, steps + 1))[-2]
        assert before_the_last.sigma == pytest.approx(0.1)
        errors.append((before_the_last.noisy - exact).square().mean().sqrt())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([order, order], abs=0.2)
    assert errors[-1] < (0.03 if order == 1 else 0.002)


def test_a_gaussian_s_flow_is_its_closed_form() -> None:
    """Every direction of N(m, s^2) is scaled: (x - m) goes with sqrt(s^2 + sigma^2)."""
    noisy = start(5.0)
    variances, directions = torch.linalg.eigh(COVARIANCE)
    ratio = ((variances + 0.1**2) / (variances + 5.0**2)).sqrt()
    expected = MEAN + ((noisy - MEAN) @ directions * ratio) @ directions.T
    torch.testing.assert_close(flow(gaussian, noisy, 5.0, 0.1), expected)
    heun = walked(sampler("heun"), gaussian, noisy, karras_levels(0.1, 5.0, 200))[-2].noisy
    torch.testing.assert_close(heun, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("path", ["exploding", "straight"])
def test_ddim_without_fresh_noise_is_euler_s_step(path: str) -> None:
    noisy, levels = start(900.0), torch.tensor([900.0, 30.0, 4.0, 0.5, 0.02], dtype=torch.float64)
    implicit = walked(sampler("ddim"), mixture, noisy, levels)
    euler = walked(sampler("euler", path=path), mixture, noisy, levels)
    for one, other in zip(implicit, euler, strict=True):
        torch.testing.assert_close(one.noisy, other.noisy)


def test_the_first_step_of_dpm_solver_is_ddim_s_and_later_ones_are_the_papers() -> None:
    """Lu et al. 2022, Algorithm 2, with alpha_t and sigma_t of the variance-preserving path."""
    levels = torch.tensor([9.0, 3.0, 1.2, 0.3], dtype=torch.float64)
    states = walked(sampler("dpm-solver"), mixture, noisy := start(9.0), levels)
    first = walked(sampler("ddim"), mixture, noisy, levels)[0]
    torch.testing.assert_close(states[0].noisy, first.noisy)

    alpha, sigma = levels.atan().cos(), levels.atan().sin()
    lambdas = (alpha / sigma).log()
    for index in (1, 2):
        h, h_before = lambdas[index + 1] - lambdas[index], lambdas[index] - lambdas[index - 1]
        r = h_before / h
        D = (1 + 1 / (2 * r)) * states[index].clean - 1 / (2 * r) * states[index - 1].clean
        x = alpha[index] * states[index - 1].noisy
        expected = sigma[index + 1] / sigma[index] * x - alpha[index + 1] * (torch.exp(-h) - 1) * D
        torch.testing.assert_close(alpha[index + 1] * states[index].noisy, expected)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_s_velocity_is_the_slope_of_its_image(path: PathName) -> None:
    """x = a clean + b noise, so that dx / du is the derivative of a and b by the path's own clock."""
    clean, noise = start(1.0, 2)
    sigma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = paths.scale(path, sigma) * (clean + sigma * noise)
    (clock_slope,) = torch.autograd.grad(paths.clock(path, sigma), sigma)
    for pixel, expected in zip(x.flatten(), paths.velocity(path, sigma, clean, noise).flatten(), strict=True):
        (slope,) = torch.autograd.grad(pixel, sigma, retain_graph=True)
        torch.testing.assert_close(slope / clock_slope, expected)


CHOICES = [
    {"name": "ddpm"},
    {"name": "ddim"},
    {"name": "ddim", "eta": 0.5},
    {"name": "ddim", "eta": 1.0},
    {"name": "euler"},
    {"name": "heun", "path": "straight"},
    {"name": "dpm-solver"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_forward_then_reverse_gives_a_gaussian_back(choice: dict[str, Any]) -> None:
    """On a Gaussian every sampler is affine in its start and in each step's fresh noise, so that mean and covariance of
    what it draws follow from its answers to unit vectors: no chance is left in this test."""
    steps, sigma = 400, 10.0
    levels = torch.cat([karras_levels(0.002, sigma, steps), torch.zeros(1, dtype=torch.float64)])
    count = 1 + 3 + 3 * steps  # the mean; a unit vector of the start; a unit vector of each step's noise
    noisy = MEAN.expand(count, 1, 1, 3).clone()
    noisy[1:4, 0, 0] += torch.eye(3)

    def noise(stream: int) -> Tensor:
        impulses = torch.zeros_like(noisy)
        impulses[1 + 3 * stream : 4 + 3 * stream, 0, 0] = torch.eye(3, dtype=torch.float64)
        return impulses

    *_, last = sampler(**choice).walk(gaussian, noisy, levels, noise)
    answers = last.noisy[:, 0, 0]
    mean, responses = answers[0], (answers[1:] - answers[0]).view(steps + 1, 3, 3)  # responses[k, j]: to the j-th
    noised = COVARIANCE + sigma**2 * torch.eye(3, dtype=torch.float64)  # the forward process
    covariance = responses[0].T @ noised @ responses[0] + (responses[1:].mT @ responses[1:]).sum(0)
    torch.testing.assert_close(mean, MEAN)
    torch.testing.assert_close(covariance, COVARIANCE, atol=0.006, rtol=0)


class Exact(Network):
    """A backbone that gives what a perfect one would, from what it is given: the scaled image and the time."""

    kind = "backbone"
    settings_type = Settings
    denoiser: Denoiser

    def __init__(self) -> None:
        super().__init__(Settings(), Port("backbone", SHAPE, outputs=1))
        self.register_buffer("here", torch.zeros(()))  # says on which device it is

    def forward(self, images: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        denoiser = self.denoiser
        time = time[:1].double()
        match denoiser:
            case DDPMDenoiser():
                place = time * (len(denoiser.sigmas) - 1)
                low = place.floor().long().clamp(max=len(denoiser.sigmas) - 2)
                table = denoiser.sigmas.double().log()
                sigma = (table[low] + (place - low) * (table[low + 1] - table[low])).exp()
            case EDMDenoiser():
                sigma = (4 * time).exp()
            case _:
                sigma = time / (1 - time)
        scales = denoiser.scales(sigma)
        noisy = images.double() / scales.input
        return (mixture(noisy, sigma) - scales.skip * noisy) / scales.out


def exact(kind: type[Denoiser], **settings: Any) -> Denoiser:
    backbone = Exact()
    network = kind(kind.settings_type.read(settings, "test"), Port("denoiser", SHAPE), backbone).eval()
    object.__setattr__(backbone, "denoiser", network)  # not a submodule: that would be a circle
    return network


PARAMETERISATIONS: list[tuple[type[Denoiser], dict[str, Any]]] = [
    (EDMDenoiser, {"sigma_max": 1000.0, "sigma_data": 0.4}),
    (FlowMatchingDenoiser, {"latest": 0.999}),
    *(
        (DDPMDenoiser, {"schedule": "linear", "prediction": prediction})
        for prediction in ("noise", "image", "velocity")
    ),
    (DDPMDenoiser, {"schedule": "cosine", "prediction": "velocity"}),
]


SOLVERS = {"euler": PARAMETERISATIONS, "dpm-solver": PARAMETERISATIONS[:3], "heun": PARAMETERISATIONS[:2]}


def test_parameterisations_and_solvers_agree_at_1000_steps() -> None:
    """The same noise becomes the same images whichever way a perfect denoiser was written, by every solver, each in
    its denoiser's own variable; those of second order to a tenth of what Euler's method may be off by."""
    draw = Draw(0, torch.arange(6))
    images = {
        (name, kind.__name__, *settings.values()): sampler(name, steps=1000, spacing="karras").sample(
            exact(kind, **settings), draw
        )
        for name, parameterisations in SOLVERS.items()
        for kind, settings in parameterisations
    }
    reference = images["heun", "EDMDenoiser", 1000.0, 0.4]
    assert reference.std() > 0.3
    for (name, *rest), drawn in images.items():
        off = (drawn - reference).abs().max()
        assert off < (0.02 if name == "euler" else 0.002), (name, rest, off)


@pytest.mark.parametrize("kind", [EDMDenoiser, FlowMatchingDenoiser, DDPMDenoiser])
def test_on_each_denoiser_s_own_grid_and_path_heun_is_better_than_euler_at_the_same_cost(kind: type[Denoiser]) -> None:
    network, draw = exact(kind), Draw(0, torch.arange(32))
    fine = sampler("heun", steps=500).sample(network, draw)
    heun = (sampler("heun", steps=20).sample(network, draw) - fine).square().mean().sqrt()
    euler = (sampler("euler", steps=39).sample(network, draw) - fine).square().mean().sqrt()
    assert heun < 0.8 * euler < 0.05


def test_the_own_path_is_the_denoiser_s_and_another_can_be_asked_for() -> None:
    network, draw = exact(DDPMDenoiser), Draw(0, torch.arange(4))
    images = {path: sampler("heun", steps=30, path=path).sample(network, draw) for path in ("own", *PATHS)}
    assert torch.equal(images["own"], images["preserving"])
    assert not torch.allclose(images["own"], images["straight"], atol=1e-4)
    assert not torch.allclose(images["own"], images["exploding"], atol=1e-4)


@pytest.mark.parametrize("name", ["heun", "euler", "dpm-solver", "ddpm"])
def test_eta_without_ddim_is_told_with_its_reason(name: str) -> None:
    with pytest.raises(
        UserError, match=r"sampler: .* without `eta`: .* (probability-flow ODE|all of it).* Set sampler"
    ):
        build_sampler({"name": name, "eta": 0.5})
