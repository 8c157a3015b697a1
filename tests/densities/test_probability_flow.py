"""Likelihoods by the probability-flow ODE, of distributions whose denoiser and whose density are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from genforge.contracts import CELL, POINT, Draw, ImageShape, Network, Port
from genforge.densities.probability_flow import ProbabilityFlow, ProbabilityFlowSettings
from genforge.networks.ddpm import DDPMDenoiser
from genforge.networks.denoiser import Denoiser
from genforge.networks.edm import EDMDenoiser
from genforge.networks.flow_matching import FlowMatchingDenoiser
from genforge.settings import Settings
from tests.networks.network_cases import EIGHT, build
from tests.samplers.exact_denoisers import CENTRES, COVARIANCE, MEAN, SPREAD, gaussian, mixture

SHAPE = ImageShape(1, 1, 3)
DENOISERS: list[tuple[type[Denoiser], dict[str, Any]]] = [
    (EDMDenoiser, {"sigma_max": 300.0}),
    (EDMDenoiser, {"sigma_min": 0.3, "sigma_max": 300.0}),  # where y is far from x from the first
    (FlowMatchingDenoiser, {}),
    (DDPMDenoiser, {"schedule": "cosine"}),
    (DDPMDenoiser, {"schedule": "linear"}),
]


class Silent(Network):
    kind = "backbone"
    settings_type = Settings


def exact(kind: type[Denoiser], answer: Any, shape: ImageShape = SHAPE, **settings: Any) -> Denoiser:
    """The denoiser of a known distribution, with the noise levels of `kind`."""

    class Exact(kind):  # type: ignore[misc, valid-type]
        def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
            return answer(noisy, sigma[0])

    port = Port("denoiser", shape)
    network: Denoiser = Exact(kind.settings_type.read(settings, "test"), port, Silent(Settings(), port))
    return network.double().eval()


def density(**settings: Any) -> ProbabilityFlow:
    return ProbabilityFlow(ProbabilityFlowSettings.read(settings, "test"))


def points(count: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return (MEAN + normal @ torch.linalg.cholesky(COVARIANCE).T).view(count, 1, 1, 3)


def log_density_of_the_gaussian(x: Tensor, sigma: float) -> Tensor:
    covariance = COVARIANCE + sigma**2 * torch.eye(3)
    return MultivariateNormal(MEAN, covariance).log_prob(x.flatten(1))


def log_density_of_the_mixture(x: Tensor, sigma: float) -> Tensor:
    covariance = (SPREAD**2 + sigma**2) * torch.eye(3, dtype=torch.float64)
    parts = [MultivariateNormal(centre, covariance).log_prob(x.flatten(1)) for centre in CENTRES]
    return torch.stack(parts).logsumexp(0) - math.log(2)


@pytest.mark.parametrize(("kind", "settings"), DENOISERS, ids=str)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [(gaussian, log_density_of_the_gaussian), (mixture, log_density_of_the_mixture)],
    ids=["gaussian", "mixture"],
)
def test_the_density_is_its_closed_form(
    kind: type[Denoiser], settings: dict[str, Any], answer: Any, expected: Any
) -> None:
    network, x = exact(kind, answer, **settings), points()
    told = density(steps=30, trace="exact").log_density(network, x, None, [])
    torch.testing.assert_close(told, expected(x, network.sigma_range()[0]), atol=0.015, rtol=0)


def test_twice_the_steps_have_far_less_of_the_error() -> None:
    """Of fourth order a sixteenth; what is left at the end is that noise is not quite all at the top."""
    network, x = exact(FlowMatchingDenoiser, mixture), points()
    expected = log_density_of_the_mixture(x, network.sigma_range()[0])
    errors = [
        (density(steps=steps, trace="exact").log_density(network, x, None, []) - expected).square().mean().sqrt().item()
        for steps in (12, 24)
    ]
    assert errors[1] < errors[0] / 10
    assert errors[0] < 0.1


def test_hutchinson_s_estimate_is_the_exact_trace_on_the_average() -> None:
    network, x = exact(EDMDenoiser, gaussian), points(4)
    generator = torch.Generator().manual_seed(1)
    signs = [torch.randint(2, x.shape, generator=generator).double() * 2 - 1 for _ in range(2000)]
    _, estimate = density()._denoise(network, x, 0.3, None, signs)
    _, trace = density(trace="exact")._denoise(network, x, 0.3, None, [])
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + 0.09 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(trace, gain.trace().expand(4))
    torch.testing.assert_close(estimate, trace, atol=0.03, rtol=0)
    singles = [density()._denoise(network, x, 0.3, None, [sign])[1] for sign in signs[:2]]
    assert not torch.allclose(singles[0], trace, atol=1e-3)


def test_the_probability_of_an_8_bit_image_is_its_cell_s() -> None:
    """A Gaussian is nearly even over a cell, so that its probability is density times volume."""
    network = exact(EDMDenoiser, gaussian, sigma_max=300.0)
    x = points(16)
    draw = Draw(0, torch.arange(16))
    told = density(steps=30, trace="exact").log_likelihood({"denoiser": network}, x, draw)
    expected = log_density_of_the_gaussian(x, network.sigma_range()[0]) + 3 * math.log(CELL)
    torch.testing.assert_close(told, expected, atol=0.5, rtol=0)
    assert (told - expected).mean().abs() < 0.15


@pytest.mark.parametrize("name", ["edm-denoiser", "ddpm-denoiser", "flow-matching-denoiser"])
def test_an_image_s_likelihood_is_the_same_at_any_batch_size_and_leaves_nothing_behind(name: str) -> None:
    network = build(name, EIGHT, classes=3).eval().requires_grad_(False)
    images, labels = torch.rand(5, 1, 8, 8) * 2 - 1, torch.arange(5) % 3
    told = density(steps=2, probes=2)
    whole = told.log_likelihood({"denoiser": network}, images, Draw(3, torch.arange(5), labels))
    assert whole.dtype == torch.float64 and not whole.requires_grad and torch.isfinite(whole).all()
    parts = [
        told.log_likelihood({"denoiser": network}, images[part.indices], part)
        for part in Draw(3, torch.arange(5), labels).split(2)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-2)
    other = told.log_likelihood({"denoiser": network}, images, Draw(4, torch.arange(5), labels))
    assert not torch.allclose(other, whole)


def two_heaps(noisy: Tensor, sigma: Tensor) -> Tensor:
    """The clean point, on the average, of two normals of deviation 0.1 at (0.5, 0.5) and (-0.5, -0.5)."""
    heap, share = 0.1**2, 0.1**2 / (0.1**2 + sigma**2)
    which = (noisy.sum(dim=1, keepdim=True) * 0.5 / (heap + sigma**2)).tanh()  # of the middle, 1 or -1
    return share * noisy + (1 - share) * 0.5 * which


def test_points_are_told_of_as_they_are_and_their_density_integrates_to_one() -> None:
    network = exact(FlowMatchingDenoiser, two_heaps, POINT)
    axis = torch.linspace(-1.2, 1.2, 81, dtype=torch.float64)
    places = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
    flow = density(steps=30, trace="exact")
    told = flow.log_likelihood({"denoiser": network}, places, Draw(0, torch.arange(len(places))))
    assert told.exp().sum().item() * (2.4 / 80) ** 2 == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(told, flow.log_density(network, places, None, []))  # no noise over cells of levels
    assert "dequantisation" not in flow.how_of(POINT)


def test_how_it_was_found_is_said() -> None:
    assert density(steps=7, probes=2).how == (
        "probability-flow ODE, 7 steps of Runge-Kutta; Hutchinson's trace, 2 probes; uniform dequantisation, 1 draw"
    )
    assert "exact trace" in density(trace="exact").how
