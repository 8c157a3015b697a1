"""The terms of the bound against torch.distributions, warm-up and free bits against their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from genforge.catalog import build_network
from genforge.contracts import Batch, ImageShape
from genforge.networks.pixels import GaussianPixels
from genforge.objectives.variational import (
    DrawnLatent,
    Variational,
    VariationalSettings,
    kl_to_standard_normal,
)
from tests.networks.network_cases import some_pixels

IMAGE = ImageShape(1, 8, 8)
LAWS: dict[str, dict[str, Any]] = {
    "calibrated": {"name": "gaussian-pixels"},
    "learned": {"name": "gaussian-pixels", "scale": "learned", "sigma": 0.5},
    "fixed": {"name": "gaussian-pixels", "scale": "fixed"},
    "bernoulli": {"name": "bernoulli-pixels"},
    "logistic": {"name": "logistic-pixels"},
}


def variational(classes: int = 0, pixels: str = "calibrated", **settings: Any) -> Variational:
    torch.manual_seed(0)
    read = VariationalSettings.read(settings, "test")
    choices = {
        "encoder": {"name": "dcgan-critic", "width": 8},
        "decoder": {"name": "dcgan-generator", "width": 8},
        "pixels": LAWS[pixels],
    }
    ports = Variational.ports(read, IMAGE, classes)
    return Variational(read, {role: build_network(choices[role], port, role) for role, port in ports.items()})


def batch(count: int = 6) -> Batch:
    return Batch(some_pixels(IMAGE, count).images, torch.arange(count) % 3)


def logs_of(objective: Variational) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    loss = objective.loss(objective.players[0], batch())
    return {"value": loss.value.detach(), **loss.logs}


def test_divergence_is_torch_s_in_every_dimension() -> None:
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_a_draw_of_the_posterior_has_the_slopes_of_its_formulas() -> None:
    """Of the latent and of the divergence, both at once, against torch going back through each operation."""
    encoded = torch.randn(6, 10)
    weights, prices = torch.randn(6, 5), torch.rand(5)
    found = []
    for quick in (True, False):
        torch.manual_seed(3)
        given = encoded.clone().requires_grad_()
        if quick:
            latent, divergences = DrawnLatent.apply(given)
        else:
            mean, log_variance = given.chunk(2, dim=1)
            latent = mean + (0.5 * log_variance).exp() * torch.randn(6, 5)
            divergences = kl_to_standard_normal(mean, log_variance).mean(dim=0)
        ((latent * weights).sum() + (divergences * prices).sum()).backward()
        found.append((latent.detach(), divergences.detach(), given.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("pixels", LAWS)
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_is_the_bound_with_its_divergence_weighted(pixels: str, beta: float) -> None:
    logs = logs_of(variational(pixels=pixels, beta=beta))
    torch.testing.assert_close(logs["value"], logs["reconstruction"] + beta * logs["divergence"])
    torch.testing.assert_close(logs["elbo"], -(logs["reconstruction"] + logs["divergence"]))
    assert ("sigma" in logs) == (pixels in ("calibrated", "learned", "fixed"))


def test_warm_up_raises_the_weight_in_a_straight_line_and_goes_on_after_a_stop() -> None:
    objective = variational(beta=3.0, warmup_steps=4)
    weights = []
    for _ in range(6):
        weights.append(objective.beta)
        objective.after_step(objective.players[0])
    assert weights == [0.0, 0.75, 1.5, 2.25, 3.0, 3.0]
    resumed = variational(beta=3.0, warmup_steps=4)
    resumed.load_state({"steps": torch.tensor(2)})
    assert resumed.beta == 1.5
    logs = logs_of(resumed)
    torch.testing.assert_close(logs["value"], logs["reconstruction"] + 1.5 * logs["divergence"])


def test_free_bits_press_no_dimension_below_them() -> None:
    objective = variational(latent_size=4, free_bits=0.5)
    mean, log_variance = objective.encode(batch().images)
    divergences = kl_to_standard_normal(mean, log_variance).mean(0).detach()
    assert (divergences < 0.5).any(), "or nothing is tested"
    logs = logs_of(objective)
    torch.testing.assert_close(logs["value"], logs["reconstruction"] + divergences.clamp(min=0.5).sum())
    torch.testing.assert_close(logs["divergence"], divergences.sum())


def test_the_learned_scale_is_learned_and_kept_beside_the_decoder() -> None:
    objective = variational(pixels="learned")
    loss = objective.loss(objective.players[0], batch())
    assert loss.logs["sigma"].item() == pytest.approx(0.5)
    loss.value.backward()
    assert isinstance(objective.pixels, GaussianPixels)
    scale = objective.pixels.log_sigma
    assert scale.grad is not None and scale.grad.abs() > 0
    assert "pixels.log_sigma" in dict(objective.players[0].module.named_parameters())
    assert list(objective.kept()) == ["decoder", "encoder", "pixels"]


def test_after_training_the_calibrated_scale_is_that_of_the_training_split() -> None:
    objective = variational()
    for network in objective.kept().values():
        network.eval()
    data = some_pixels(IMAGE, 500)
    torch.manual_seed(0)
    objective.finish(data)
    errors = []
    with torch.no_grad():
        for _ in range(20):
            mean, log_variance = objective.encode(data.images)
            decoded = objective.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
            errors.append((decoded - data.images).square().mean())
    assert isinstance(objective.pixels, GaussianPixels)
    sigma = objective.pixels.log_sigma.exp().item()
    assert sigma == pytest.approx(torch.stack(errors).mean().sqrt().item(), rel=0.02)


def test_conditional_networks_get_labels() -> None:
    objective = variational(classes=3, conditional=True)
    assert torch.isfinite(objective.loss(objective.players[0], batch()).value)
