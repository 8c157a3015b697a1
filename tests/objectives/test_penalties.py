"""Penalties on critics whose slopes are known: a linear one has the same everywhere, a quadratic one grows with x."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genforge.objectives.penalties import between, gradient_penalty, one_centred, squared_slopes, zero_centred

DIRECTION = torch.tensor([2.0, -1.0, 2.0, 0.0])  # of length 3


def images(count: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


def linear(direction: Tensor, at: Tensor) -> Tensor:
    """D(x) = a x: (n, 1), with slope |a| at every x."""
    return at.flatten(1) @ direction[:, None]


def quadratic(curvature: Tensor, at: Tensor) -> Tensor:
    """D(x) = c x^2 / 2: (n, 1), with slope |c x|."""
    return 0.5 * curvature * at.flatten(1).square().sum(dim=1, keepdim=True)


def test_slopes_of_a_linear_and_of_a_quadratic_critic() -> None:
    at = images().requires_grad_()
    (slopes,) = squared_slopes(linear(DIRECTION, at), at)
    torch.testing.assert_close(slopes, torch.full((5,), 9.0))
    (slopes,) = squared_slopes(quadratic(torch.tensor(3.0), at), at)
    torch.testing.assert_close(slopes, 9 * at.detach().square().flatten(1).sum(dim=1))


def test_slopes_at_several_batches_are_those_of_each() -> None:
    real, fake = images(3, seed=1).requires_grad_(), images(3, seed=2).requires_grad_()
    curvature = torch.tensor(2.0)
    outputs = quadratic(curvature, torch.cat([real, fake]))
    at_real, at_fake = squared_slopes(outputs, real, fake)
    torch.testing.assert_close(at_real, 4 * real.detach().square().flatten(1).sum(dim=1))
    torch.testing.assert_close(at_fake, 4 * fake.detach().square().flatten(1).sum(dim=1))


def test_zero_centred_and_its_gradient() -> None:
    """On a x: |a|^2 / 2, by a: a. On c x^2 / 2: c^2 E[x^2] / 2, by c: c E[x^2]."""
    at, direction = images().requires_grad_(), DIRECTION.clone().requires_grad_()
    penalty = zero_centred(*squared_slopes(linear(direction, at), at))
    assert penalty.item() == pytest.approx(4.5)
    torch.testing.assert_close(torch.autograd.grad(penalty, direction)[0], DIRECTION)
    curvature, square = torch.tensor(3.0, requires_grad=True), at.detach().square().flatten(1).sum(dim=1).mean()
    penalty = zero_centred(*squared_slopes(quadratic(curvature, at), at))
    torch.testing.assert_close(penalty.detach(), 4.5 * square)
    torch.testing.assert_close(torch.autograd.grad(penalty, curvature)[0], 3 * square)


def test_gradient_penalty_and_its_gradient() -> None:
    """On a x: (|a| - 1)^2, by a: 2 (|a| - 1) a / |a|, wherever the images are."""
    direction = DIRECTION.clone().requires_grad_()
    penalty = gradient_penalty(lambda at: linear(direction, at), images(seed=1), images(seed=2))
    assert penalty.item() == pytest.approx(4.0)
    torch.testing.assert_close(torch.autograd.grad(penalty, direction)[0], 2 * 2 * DIRECTION / 3)


def test_a_slope_of_one_costs_nothing_and_a_flat_critic_has_a_finite_gradient() -> None:
    assert one_centred(torch.ones(4)).item() == 0
    direction = torch.zeros(4, requires_grad=True)
    penalty = gradient_penalty(lambda at: linear(direction, at), images(seed=1), images(seed=2))
    assert penalty.item() == pytest.approx(1.0, abs=1e-5)
    assert torch.isfinite(torch.autograd.grad(penalty, direction)[0]).all()


def test_points_between_are_on_the_line_each_at_its_own_place() -> None:
    torch.manual_seed(0)
    points = between(torch.ones(1000, 1, 2, 2), -torch.ones(1000, 1, 2, 2)).flatten(1)
    assert torch.equal(points, points[:, :1].expand(1000, 4))  # one share an image
    assert points.min() >= -1 and points.max() <= 1
    assert points[:, 0].mean().abs() < 5 * (1 / 3 / 1000) ** 0.5
    assert points[:, 0].var().item() == pytest.approx(1 / 3, rel=0.1)
