"""Losses against values worked out by hand, torch's own cross entropy, and the best critic of two known densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from genforge.objectives.gan_losses import LOSSES

REAL, FAKE = torch.tensor([[2.0], [0.5], [-1.0]]), torch.tensor([[-3.0], [0.0], [1.0]])


def log1pexp(*values: float) -> float:
    """The mean of log(1 + e^x)."""
    return sum(math.log1p(math.exp(value)) for value in values) / len(values)


BY_HAND: dict[str, tuple[float, float]] = {  # the critic's loss and the generator's on these outputs
    "minimax": (log1pexp(-2, -0.5, 1) + log1pexp(-3, 0, 1), -log1pexp(-3, 0, 1)),
    "non-saturating": (log1pexp(-2, -0.5, 1) + log1pexp(-3, 0, 1), log1pexp(3, 0, -1)),
    # Real: (1, 0.5, 2)^2 = 1, 0.25, 4. Fake: 9, 0, 1. Generator: (-4, -1, 0)^2 = 16, 1, 0.
    "least-squares": (0.5 * 5.25 / 3 + 0.5 * 10 / 3, 0.5 * 17 / 3),
    # Means: 0.5 and -2/3.
    "wasserstein": (-2 / 3 - 0.5, 2 / 3),
    # Real: max(0, 1 - (2, 0.5, -1)) = 0, 0.5, 2. Fake: max(0, 1 + (-3, 0, 1)) = 0, 1, 2.
    "hinge": (2.5 / 3 + 3 / 3, 2 / 3),
    # Differences: 5, 0.5, -2.
    "relativistic": (log1pexp(-5, -0.5, 2), log1pexp(5, 0.5, -2)),
    # D(x) - mean: 8/3, 7/6, -1/3; D(G(z)) - mean: -3.5, -0.5, 0.5.
    "relativistic-average-least-squares": (
        ((5 / 3) ** 2 + (1 / 6) ** 2 + (4 / 3) ** 2) / 3 + (2.5**2 + 0.5**2 + 1.5**2) / 3,
        (4.5**2 + 1.5**2 + 0.5**2) / 3 + ((11 / 3) ** 2 + (13 / 6) ** 2 + (2 / 3) ** 2) / 3,
    ),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_by_hand(name: str) -> None:
    critic, generator = BY_HAND[name]
    assert LOSSES[name].critic(REAL, FAKE).item() == pytest.approx(critic)
    given = REAL if LOSSES[name].needs_real else None
    assert LOSSES[name].generator(given, FAKE).item() == pytest.approx(generator)


def test_logistic_losses_are_cross_entropy_with_logits() -> None:
    entropy = functional.binary_cross_entropy_with_logits
    one, zero = torch.ones_like(REAL), torch.zeros_like(FAKE)
    for name in ("minimax", "non-saturating"):
        torch.testing.assert_close(LOSSES[name].critic(REAL, FAKE), entropy(REAL, one) + entropy(FAKE, zero))
    torch.testing.assert_close(LOSSES["non-saturating"].generator(None, FAKE), entropy(FAKE, one))
    torch.testing.assert_close(LOSSES["minimax"].generator(None, FAKE), -entropy(FAKE, zero))


def test_a_target_below_one_smooths_the_labels_of_real_images_alone() -> None:
    entropy = functional.binary_cross_entropy_with_logits
    smoothed = entropy(REAL, torch.full_like(REAL, 0.9)) + entropy(FAKE, torch.zeros_like(FAKE))
    torch.testing.assert_close(LOSSES["non-saturating"].critic(REAL, FAKE, target=0.9), smoothed)
    squares = 0.5 * functional.mse_loss(REAL, torch.full_like(REAL, 0.9)) + 0.5 * FAKE.square().mean()
    torch.testing.assert_close(LOSSES["least-squares"].critic(REAL, FAKE, target=0.9), squares)


# How each loss changes with D(x) and with D(G(z)), for one pair of outputs a and b, by hand.
Slope = Callable[[float, float], float]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


SLOPES: dict[str, tuple[Slope, Slope, Slope]] = {  # critic by a, critic by b, generator by b
    "minimax": (lambda a, b: -logistic(-a), lambda a, b: logistic(b), lambda a, b: -logistic(b)),
    "non-saturating": (lambda a, b: -logistic(-a), lambda a, b: logistic(b), lambda a, b: -logistic(-b)),
    "least-squares": (lambda a, b: a - 1, lambda a, b: b, lambda a, b: b - 1),
    "wasserstein": (lambda a, b: -1, lambda a, b: 1, lambda a, b: -1),
    "hinge": (lambda a, b: -float(a < 1), lambda a, b: float(b > -1), lambda a, b: -1),
    "relativistic": (lambda a, b: -logistic(b - a), lambda a, b: logistic(b - a), lambda a, b: -logistic(a - b)),
    # 2 (a - b - 1)^2 for the critic, 2 (a - b + 1)^2 for the generator.
    "relativistic-average-least-squares": (
        lambda a, b: 4 * (a - b - 1),
        lambda a, b: -4 * (a - b - 1),
        lambda a, b: -4 * (a - b + 1),
    ),
}


@pytest.mark.parametrize("outputs", [(0.3, -0.2), (-2.0, 1.5), (3.0, -3.0)])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_by_hand(name: str, outputs: tuple[float, float]) -> None:
    real, fake = (torch.tensor([[value]], requires_grad=True) for value in outputs)
    by_real, by_fake, generator_by_fake = (slope(*outputs) for slope in SLOPES[name])
    found = torch.autograd.grad(LOSSES[name].critic(real, fake), (real, fake))
    assert [value.item() for value in found] == pytest.approx([by_real, by_fake], abs=1e-6)
    (of_generator,) = torch.autograd.grad(LOSSES[name].generator(real.detach(), fake), fake)
    assert of_generator.item() == pytest.approx(generator_by_fake, abs=1e-6)


# Two densities on three points, in tenths, and the best critic for them.
P, Q = torch.tensor([5, 3, 2]), torch.tensor([1, 3, 6])
RATIO = (P - Q) / (P + Q)


def best_relativistic_average() -> Tensor:
    """c (p - q) / (p + q) with c = 2 / (1 + 3/2 T) and T = sum of (p - q)^2 / (p + q): set the gradient to zero, take
    the constant that leaves both means at equal distance from zero, and solve for that distance."""
    spread = ((P - Q) * RATIO).sum() / 10
    return 2 / (1 + 1.5 * spread) * RATIO


BEST: dict[str, Tensor] = {
    "minimax": (P / Q).log(),  # Goodfellow et al. 2014, proposition 1: s(D) = p / (p + q)
    "non-saturating": (P / Q).log(),
    "least-squares": P / (P + Q),  # Mao et al. 2017, eq. 5
    "hinge": torch.tensor([1.0, 0.0, -1.0]),  # the sign of p - q (Lim & Ye 2017); anything between where they are equal
    "relativistic": (P / Q).log(),
    "relativistic-average-least-squares": best_relativistic_average(),
}


def expected_loss(name: str, critic: Tensor) -> Tensor:
    """The critic's loss under the two densities: every real point paired with every fake one, as often as it occurs."""
    points = torch.arange(3)
    real, fake = critic[points.repeat_interleave(P)], critic[points.repeat_interleave(Q)]
    pairs = torch.cartesian_prod(real, fake)
    return LOSSES[name].critic(pairs[:, :1], pairs[:, 1:])


@pytest.mark.parametrize("name", sorted(BEST))
def test_the_best_critic_of_two_known_densities(name: str) -> None:
    best = BEST[name].double()
    least = expected_loss(name, best)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        for length in (0.01, 0.3, 2.0):
            elsewhere = best + length * torch.randn(3, generator=generator, dtype=torch.float64)
            assert expected_loss(name, elsewhere) > least - 1e-12
    if name != "hinge":  # which has a corner there
        (slope,) = torch.autograd.grad(expected_loss(name, best.requires_grad_()), best)
        torch.testing.assert_close(slope, torch.zeros(3, dtype=torch.float64), atol=1e-7, rtol=0)


def test_the_least_logistic_loss_measures_the_jensen_shannon_divergence() -> None:
    """Goodfellow et al. 2014, theorem 1: 2 log 2 - 2 JSD(p, q)."""
    p, q = P.double() / 10, Q.double() / 10
    middle = (p + q) / 2
    divergence = 0.5 * (p * (p / middle).log()).sum() + 0.5 * (q * (q / middle).log()).sum()
    least = expected_loss("minimax", BEST["minimax"].double())
    assert least.item() == pytest.approx(2 * math.log(2) - 2 * divergence.item())


def test_only_a_loss_that_says_so_falls_without_end() -> None:
    for name, loss in LOSSES.items():
        falls = expected_loss(name, 1e6 * (P / Q).log()) < expected_loss(name, 1e3 * (P / Q).log()) - 1
        assert bool(falls) == loss.needs_bound, name


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_players_pull_against_each_other(name: str) -> None:
    """The critic wants a higher output on real and a lower one on fake images; the generator a higher one on fake."""
    real, fake = torch.full((4, 1), 0.2, requires_grad=True), torch.full((4, 1), 0.1, requires_grad=True)
    to_real, to_fake = torch.autograd.grad(LOSSES[name].critic(real, fake), (real, fake))
    assert (to_real < 0).all()
    assert (to_fake > 0).all()
    (to_fake,) = torch.autograd.grad(LOSSES[name].generator(real.detach(), fake), fake)
    assert (to_fake < 0).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_far_outputs_stay_finite(name: str) -> None:
    far = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(LOSSES[name].critic(far, far))
    assert torch.isfinite(LOSSES[name].generator(far, far))
