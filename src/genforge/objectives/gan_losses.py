"""The losses of adversarial training: pairs of pure functions of the critic's outputs, one for each player.

Every function takes the critic's outputs (n, 1) on real and on fake images and gives a scalar to minimise. A
generator's loss that does not look at the real ones gets None for them, and the critic is spared that pass. In the
formulas s is the logistic function, D the critic's output, x real and G(z) fake.

Adding a loss is a pair of functions and one entry in `LOSSES`; what else a loss has to say about itself stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


def logistic_critic(real: Tensor, fake: Tensor, target: float = 1.0) -> Tensor:
    """-E[log s(D(x))] - E[log(1 - s(D(G(z))))]. Goodfellow et al. 2014, eq. 1.

    With a `target` t below one the first term is the cross entropy with t, -E[t log s(D) + (1 - t) log(1 - s(D))]:
    one-sided label smoothing (Salimans et al. 2016, section 3.4).
    """
    on_real = functional.softplus(-real).mean()
    if target != 1.0:
        on_real = on_real + (1.0 - target) * real.mean()  # since log(1 - s(D)) = log s(D) - D
    return on_real + functional.softplus(fake).mean()


def saturating_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """E[log(1 - s(D(G(z))))]. Goodfellow et al. 2014, eq. 1: no gradient where the critic is sure of a fake."""
    return -functional.softplus(fake).mean()


def non_saturating_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """-E[log s(D(G(z)))]. Goodfellow et al. 2014, section 3: the same fixed point, stronger gradients early."""
    return functional.softplus(-fake).mean()


def least_squares_critic(real: Tensor, fake: Tensor, target: float = 1.0) -> Tensor:
    """E[(D(x) - b)^2] / 2 + E[D(G(z))^2] / 2. Mao et al. 2017, eq. 9 (a = 0, b = 1). `target` is b."""
    return 0.5 * (real - target).square().mean() + 0.5 * fake.square().mean()


def least_squares_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """E[(D(G(z)) - 1)^2] / 2. Mao et al. 2017, eq. 9 (c = 1)."""
    return 0.5 * (fake - 1).square().mean()


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E[D(G(z))] - E[D(x)]. Arjovsky et al. 2017, eq. 2: minus the distance, if D has slopes of at most one."""
    return fake.mean() - real.mean()


def linear_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """-E[D(G(z))]. Arjovsky et al. 2017, theorem 3; Miyato et al. 2018, eq. 17."""
    return -fake.mean()


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]. Lim & Ye 2017; Miyato et al. 2018, eq. 16."""
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def relativistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log s(D(x) - D(G(z)))] over pairs of a real and a fake image.

    Jolicoeur-Martineau 2018, "The relativistic discriminator", section 4.1. With R1 and R2 it is the loss of R3GAN
    (Huang et al. 2024, "The GAN is dead; long live the GAN!", section 2, with f(t) = -log(1 + exp(-t))).
    """
    return functional.softplus(fake - real).mean()


def relativistic_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """-E[log s(D(G(z)) - D(x))]. Jolicoeur-Martineau 2018, section 4.1."""
    assert real is not None
    return functional.softplus(real - fake).mean()


def relativistic_average_least_squares_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E[(D(x) - E[D(G(z))] - 1)^2] + E[(D(G(z)) - E[D(x)] + 1)^2]: RaLSGAN of Jolicoeur-Martineau 2018.

    The inner expectations are means over the images at hand.
    """
    return (real - fake.mean() - 1).square().mean() + (fake - real.mean() + 1).square().mean()


def relativistic_average_least_squares_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """E[(D(G(z)) - E[D(x)] - 1)^2] + E[(D(x) - E[D(G(z))] + 1)^2]: the critic's, real and fake exchanged."""
    assert real is not None
    return relativistic_average_least_squares_critic(fake, real)


@dataclass(frozen=True)
class GanLoss:
    """What each player minimises.

    needs_real: the generator's loss looks at the critic's outputs on real images.
    has_target: the critic's loss takes `target`, the value that it is to give real images, by default one.
    needs_bound: the critic's loss has no least value unless something bounds the critic's slopes.
    boundary: the output above which the critic takes an image for real; None where outputs only have differences.
    """

    critic: Callable[..., Tensor]
    generator: Callable[[Tensor | None, Tensor], Tensor]
    needs_real: bool = False
    has_target: bool = False
    needs_bound: bool = False
    boundary: float | None = None


LOSSES: dict[str, GanLoss] = {
    "minimax": GanLoss(logistic_critic, saturating_generator, has_target=True, boundary=0.0),
    "non-saturating": GanLoss(logistic_critic, non_saturating_generator, has_target=True, boundary=0.0),
    "least-squares": GanLoss(least_squares_critic, least_squares_generator, has_target=True, boundary=0.5),
    "wasserstein": GanLoss(wasserstein_critic, linear_generator, needs_bound=True),
    "hinge": GanLoss(hinge_critic, linear_generator, boundary=0.0),
    "relativistic": GanLoss(relativistic_critic, relativistic_generator, needs_real=True),
    "relativistic-average-least-squares": GanLoss(
        relativistic_average_least_squares_critic, relativistic_average_least_squares_generator, needs_real=True
    ),
}
