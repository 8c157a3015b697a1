"""Path length regularisation (Karras et al. 2020, StyleGAN2, section 3.2): a step of one size in the space of styles
changes the image by one amount, wherever it starts and wherever it leads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genforge.contracts import WithStyles

KEPT = 0.99  # of the running mean length, a turn


def path_lengths(generator: WithStyles, latent: Tensor, labels: Tensor | None) -> Tensor:
    """|J_w^T y| for every latent (n, latent_size), where J_w is the derivative of the image by the style w, and y a
    random image of normal noise whose length is one on average: (n,) float32, differentiable once more."""
    styles = generator.styled(latent, labels)
    images = generator.synthesise(styles[:, None].expand(-1, generator.styles, -1)).float()
    direction = torch.randn_like(images) / math.sqrt(images[0, 0].numel())
    # J_w^T y is the gradient of g(w) y, which backpropagation gives without J_w.
    (gradient,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
    return gradient.float().square().sum(dim=1).sqrt()


class PathLength:
    """The penalty E[(|J_w^T y| - a)^2] of eq. 4, where a is the running mean of the lengths themselves.

    Attributes:
        mean: a, (), on the CPU until the first turn.
    """

    def __init__(self) -> None:
        self.mean = torch.zeros(())

    def penalty(self, lengths: Tensor) -> Tensor:
        """Of these lengths, (n,), from a as it is once they count for it."""
        return (lengths - self._with(lengths.detach().mean())).square().mean()

    def settle(self, length: Tensor) -> None:
        """The turn is over: a takes in the mean of its lengths, ()."""
        self.mean = self._with(length)

    def _with(self, length: Tensor) -> Tensor:
        return torch.lerp(self.mean.to(length.device), length, 1 - KEPT)
