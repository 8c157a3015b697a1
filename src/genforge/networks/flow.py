"""Normalizing flows: invertible networks, so that the likelihood of an image is known exactly.

With z = f(x) and z standard normal, log p(x) = log N(z; 0, 1) + log |det df/dx| (Dinh et al. 2017, "Density estimation
using real NVP", eq. 2). A flow serves as a generator, latent to image, and `encode` is its inverse.

Parts of a flow are bijections between tensors whose first dimension is the image's. They are written in the direction
of `encode`.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import CELL, Network, Port, PortKind
from genforge.settings import Settings, UserError

SMALLEST_DEVIATION = 1e-3  # of a value that hardly varies in the first batch, lest it be blown up
SMALLEST_SHARE = 1e-6  # that a logit is taken of
Encoded = tuple[Tensor, Tensor]  # values, and log |det| of each image's Jacobian, (n,)


class Bijection(nn.Module, ABC):
    """An invertible map. Labels are (n,) or None."""

    @abstractmethod
    def forward(self, x: Tensor, labels: Tensor | None) -> Encoded:
        """x to y, and log |det dy/dx|, (n,)."""

    @abstractmethod
    def inverse(self, y: Tensor, labels: Tensor | None) -> Tensor:
        """y to x."""


class Flow(Network):
    """forward(latent (n, latent_size)) -> images (n, c, h, w), of which `encode` is the inverse. Of a longer latent the
    first image.size numbers are taken."""

    kind: ClassVar[PortKind] = "latent_to_image"

    def __init__(self, settings: Settings, port: Port) -> None:
        super().__init__(settings, port)
        if port.latent_size < port.image.size:
            raise UserError(
                f"a flow's latent is as long as an image, {port.image.size}, not {port.latent_size}; choose an "
                f"objective for flows, or another network"
            )

    @abstractmethod
    def encode(self, images: Tensor, labels: Tensor | None = None) -> Encoded:
        """Images (n, c, h, w) to latents (n, image.size) and log |det d latent / d image|, (n,)."""

    def log_density(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Natural logarithm of the density of continuous images (n, c, h, w): (n,)."""
        latent, log_determinant = self.encode(images, labels)
        return log_normal(latent) + log_determinant

    @torch.no_grad()
    def adapt(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Set all activation normalisation by these images: what comes out of each has mean 0 and variance 1. In the
        same evaluation, since each sees what those before it give."""
        layers = [layer for layer in self.modules() if isinstance(layer, ActivationNorm)]
        with contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(layer.adapting())
            self.encode(images, labels)


def log_normal(latent: Tensor) -> Tensor:
    """Log density of a standard normal, (n, d) to (n,), in float32 at least."""
    return -0.5 * (latent.float().square() + math.log(2 * math.pi)).sum(dim=1)


class ActivationNorm(Bijection):
    """Scale and shift a channel, set by the first batch and learned from there (Kingma & Dhariwal 2018, "Glow", section
    3.1). Values are (n, channels, ...)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self._adapts = False

    @contextlib.contextmanager
    def adapting(self) -> Iterator[None]:
        """Within the block, whatever comes in sets scale and shift first."""
        self._adapts = True
        try:
            yield
        finally:
            self._adapts = False

    def forward(self, x: Tensor, labels: Tensor | None) -> Encoded:
        if self._adapts:
            self._set_by(x)
        positions = x[0, 0].numel()
        determinant = self.log_scale.sum() * positions
        return (x + _wide(self.shift, x)) * _wide(self.log_scale, x).exp(), determinant.expand(len(x))

    def inverse(self, y: Tensor, labels: Tensor | None) -> Tensor:
        return y * _wide(-self.log_scale, y).exp() - _wide(self.shift, y)

    @torch.no_grad()
    def _set_by(self, x: Tensor) -> None:
        values = x.transpose(0, 1).flatten(1)  # (channels, all of one)
        self.shift.copy_(-values.mean(dim=1))
        self.log_scale.copy_(-values.std(dim=1, correction=0).clamp(min=SMALLEST_DEVIATION).log())


class Logit(Bijection):
    """Images on [-1, 1], made continuous over the cells of their levels, to the whole line.

    With y in (0, 1) the place in the range of all cells, logit(alpha + (1 - 2 alpha) y): Dinh et al. 2017, section 4.1,
    but for the 2, which keeps white as far from infinity as black.

    The darkest cell becomes about log(1 + 1 / (256 alpha)) wide, of a line that has -log alpha on either side: with the
    paper's 0.05 0.07 of 3, with 0.0005 2.2 of 7.6. A background that is black to the last level is then no needle that
    couplings have to stretch a hundredfold before they learn anything else.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, labels: Tensor | None) -> Encoded:
        place = (x + 1 + CELL / 2) / (2 + CELL)
        # What is drawn may lie a little beyond black and white. No further: there the map ends.
        inside = (self.alpha + (1 - 2 * self.alpha) * place).clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
        y = inside.log() - torch.log1p(-inside)
        # d logit(p) / dp = 1 / (p (1 - p)), whose logarithm is softplus(y) + softplus(-y).
        slopes = functional.softplus(y) + functional.softplus(-y) + math.log((1 - 2 * self.alpha) / (2 + CELL))
        return y, slopes.flatten(1).sum(dim=1)

    def inverse(self, y: Tensor, labels: Tensor | None) -> Tensor:
        place = (y.sigmoid() - self.alpha) / (1 - 2 * self.alpha)
        return place * (2 + CELL) - (1 + CELL / 2)


class AffineCoupling(Bijection):
    """One half scales and shifts the other: b * exp(s(a)) + t(a) (Dinh et al. 2017, eq. 7), with s = scale * tanh(raw),
    its scale learned for each channel (their section 4.1), so that no value is ever blown up.

    Args:
        network: maps a (and labels) to raw and t behind one another, twice the channels of b.
        halves: how x is cut into a and b.
    """

    def __init__(self, network: nn.Module, halves: Halves) -> None:
        super().__init__()
        self.network, self.halves = network, halves
        self.scale = nn.Parameter(torch.ones(halves.changed))

    def forward(self, x: Tensor, labels: Tensor | None) -> Encoded:
        a, b = self.halves.split(x)
        log_scale, shift = self._of(a, labels)
        return self.halves.merge(a, b * log_scale.exp() + shift), log_scale.flatten(1).sum(dim=1)

    def inverse(self, y: Tensor, labels: Tensor | None) -> Tensor:
        a, b = self.halves.split(y)
        log_scale, shift = self._of(a, labels)
        return self.halves.merge(a, (b - shift) * (-log_scale).exp())

    def _of(self, a: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(a, labels).float().chunk(2, dim=1)
        return _wide(self.scale, raw) * raw.tanh(), shift


class Halves(ABC):
    """A way to cut values into two parts of which one tells about the other. read, changed: channels of each."""

    read: int
    changed: int

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x to what is read, a, and what is changed, b."""

    @abstractmethod
    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Back."""


class Channels(Halves):
    """The first half of the channels and the rest; or the other way round, where `turned`."""

    def __init__(self, channels: int, turned: bool) -> None:
        self.turned, self.sizes = turned, (channels - channels // 2, channels // 2)
        self.read, self.changed = reversed(self.sizes) if turned else self.sizes

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=1)
        return (second, first) if self.turned else (first, second)

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([b, a] if self.turned else [a, b], dim=1)


class Checkerboard(Halves):
    """The light squares of a checkerboard and the dark ones, each (n, 2 c, h / 2, w / 2): of every 2 by 2 pixels one
    diagonal, as channels. So the network that reads them has a quarter of the positions to go over."""

    def __init__(self, channels: int, turned: bool) -> None:
        self.turned = turned
        self.read = self.changed = 2 * channels

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        light, dark = squeeze(x).unflatten(1, (4, -1))[:, [0, 3, 1, 2]].flatten(1, 2).chunk(2, dim=1)
        return (dark, light) if self.turned else (light, dark)

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        together = torch.cat([b, a] if self.turned else [a, b], dim=1)
        return unsqueeze(together.unflatten(1, (4, -1))[:, [0, 2, 3, 1]].flatten(1, 2))


def squeeze(x: Tensor) -> Tensor:
    """Every 2 by 2 pixels become channels: (n, c, h, w) to (n, 4 c, h / 2, w / 2), in the order top left, top right,
    bottom left, bottom right, all channels of each."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def unsqueeze(y: Tensor) -> Tensor:
    """The inverse of `squeeze`."""
    n, c, h, w = y.shape
    return y.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(channels,) to (1, channels, 1, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))
