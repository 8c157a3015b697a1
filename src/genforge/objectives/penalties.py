"""Penalties on the slope of a critic, as functions of its outputs and of the images that it saw.

An image's slope is the length of the gradient of its own output; the critic must look at one image at a time, so that
the gradient of the sum of all outputs holds every image's own. They are differentiated once more for the critic's
weights, and so keep the graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def squared_slopes(outputs: Tensor, *images: Tensor) -> list[Tensor]:
    """|dD/dx|^2 at every image: float32, (n,) for each batch (n, c, h, w) of those that the outputs came from."""
    gradients = torch.autograd.grad(outputs.sum(), images, create_graph=True)
    return [gradient.float().square().flatten(1).sum(dim=1) for gradient in gradients]


def zero_centred(slopes: Tensor) -> Tensor:
    """E[|dD/dx|^2] / 2 of squared slopes (n,). Mescheder et al. 2018, "Which training methods for GANs do actually
    converge?", section 4.1: R1 at real images, R2 at generated ones."""
    return 0.5 * slopes.mean()


def one_centred(slopes: Tensor) -> Tensor:
    """E[(|dD/dx| - 1)^2] of squared slopes (n,). Gulrajani et al. 2017, eq. 3."""
    # The root has no finite derivative at zero, where a critic is that is flat; below this a slope is flat enough.
    return (slopes.clamp(min=1e-12).sqrt() - 1).square().mean()


def between(real: Tensor, fake: Tensor) -> Tensor:
    """A point on the straight line between each real image and its fake one, uniform on it: (n, c, h, w) float32."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    return torch.lerp(fake.float(), real.float(), share)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """The one-centred penalty at points between real and fake images. Gulrajani et al. 2017, Algorithm 1."""
    images = between(real.detach(), fake.detach()).requires_grad_()
    return one_centred(*squared_slopes(critic(images), images))
