"""The terms of the bound against torch.distributions, and the calibrated scale against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from genforge.catalog import build_network
from genforge.contracts import Batch, ImageShape
from genforge.objectives.variational import (
    Variational,
    VariationalSettings,
    bernoulli_nats,
    calibrated_log_sigma,
    gaussian_nats,
    kl_to_standard_normal,
)

IMAGE = ImageShape(1, 8, 8)


def variational(classes: int = 0, **settings: Any) -> Variational:
    torch.manual_seed(0)
    read = VariationalSettings.read(settings, "test")
    choices = {"encoder": {"name": "dcgan-critic", "width": 8}, "decoder": {"name": "dcgan-generator", "width": 8}}
    ports = Variational.ports(read, IMAGE, classes)
    return Variational(read, {role: build_network(choices[role], port, role) for role, port in ports.items()})


def batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1, torch.arange(count) % 3)


def test_divergence_is_torch_s() -> None:
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_gaussian_nats_are_torch_s() -> None:
    images, mean = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    expected = -Normal(mean, 0.3).log_prob(images).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_nats(images, mean, torch.tensor(math.log(0.3))), expected)


def test_bernoulli_nats_are_torch_s_and_finite_at_the_ends() -> None:
    images = torch.randint(2, (3, 1, 4, 4)) * 2.0 - 1
    mean = torch.rand(3, 1, 4, 4) * 1.8 - 0.9
    expected = -Bernoulli((mean + 1) / 2).log_prob((images + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_nats(images, mean), expected)
    assert torch.isfinite(bernoulli_nats(images, -images)).all()


def test_no_other_scale_is_more_likely_than_the_calibrated() -> None:
    torch.manual_seed(0)
    images, mean = torch.randn(8, 1, 4, 4), 0.2 * torch.randn(8, 1, 4, 4)
    best = calibrated_log_sigma(images, mean)
    nats = gaussian_nats(images, mean, best).sum()
    assert nats < gaussian_nats(images, mean, best + 0.01).sum()
    assert nats < gaussian_nats(images, mean, best - 0.01).sum()


def test_the_calibrated_scale_loses_no_gradient() -> None:
    torch.manual_seed(0)
    images, mean = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4, requires_grad=True)
    (ours,) = torch.autograd.grad(gaussian_nats(images, mean, calibrated_log_sigma(images, mean)).sum(), mean)
    through = 0.5 * (images - mean).square().mean().log()
    (exact,) = torch.autograd.grad(gaussian_nats(images, mean, through).sum(), mean)
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("decoder", ["calibrated", "learned", "fixed", "bernoulli"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_is_the_bound_with_its_divergence_weighted(decoder: str, beta: float) -> None:
    objective = variational(decoder=decoder, beta=beta)
    loss = objective.loss(objective.players[0], batch())
    logs = loss.logs
    torch.testing.assert_close(loss.value.detach(), logs["reconstruction"] + beta * logs["divergence"])
    torch.testing.assert_close(logs["elbo"], -(logs["reconstruction"] + logs["divergence"]))
    assert ("sigma" in logs) == (decoder != "bernoulli")


def test_the_learned_scale_is_learned_and_is_no_part_of_the_decoder() -> None:
    objective = variational(decoder="learned", sigma=0.5)
    loss = objective.loss(objective.players[0], batch())
    assert loss.logs["sigma"].item() == pytest.approx(0.5)
    loss.value.backward()
    scale = objective.autoencoder.log_sigma
    assert scale is not None and scale.grad is not None and scale.grad.abs() > 0
    assert "log_sigma" in dict(objective.players[0].module.named_parameters())
    assert "log_sigma" not in dict(objective.exported.named_parameters())


def test_conditional_networks_get_labels() -> None:
    objective = variational(classes=3, conditional=True)
    assert torch.isfinite(objective.loss(objective.players[0], batch()).value)
