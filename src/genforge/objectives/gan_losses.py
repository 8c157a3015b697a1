"""The losses of adversarial training: pairs of pure functions of the critic's outputs, one for each player.

Every function takes the critic's outputs (n, 1) on real and on fake images and gives a scalar to minimise. A
generator's loss that does not look at the real ones gets None for them, and the critic is spared that pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]. Lim & Ye 2017; Miyato et al. 2018, eq. 16."""
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def hinge_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """-E[D(G(z))]. Miyato et al. 2018, eq. 17."""
    return -fake.mean()


def logistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log s(D(x))] - E[log(1 - s(D(G(z))))], with s the logistic function. Goodfellow et al. 2014, eq. 1."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def non_saturating_generator(real: Tensor | None, fake: Tensor) -> Tensor:
    """-E[log s(D(G(z)))]. Goodfellow et al. 2014, section 3: the same fixed point, stronger gradients early."""
    return functional.softplus(-fake).mean()


@dataclass(frozen=True)
class GanLoss:
    """What each player minimises. `needs_real`: the generator's loss looks at the critic's outputs on real images."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor | None, Tensor], Tensor]
    needs_real: bool = False


LOSSES: dict[str, GanLoss] = {
    "hinge": GanLoss(hinge_critic, hinge_generator),
    "non-saturating": GanLoss(logistic_critic, non_saturating_generator),
}
