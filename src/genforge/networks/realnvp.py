"""RealNVP for images (Dinh et al. 2017, "Density estimation using real NVP", section 3).

Each scale has couplings with checkerboard masks, a squeeze, couplings with channel masks, and half of the channels
leave for the latent; the last scale has couplings alone. Before each coupling stands activation normalisation (Kingma &
Dhariwal 2018) in place of the paper's batch normalisation, so that an image's likelihood is its own affair. Half of a
checkerboard is read as channels of an image of half the side (`flow.Checkerboard`), which takes a quarter of the time;
a side that is odd, such as 7, has no such halves and gets channel masks.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from genforge.contracts import Port
from genforge.networks.conditioning import OneHot, join_planes, planes
from genforge.networks.flow import (
    ActivationNorm,
    AffineCoupling,
    Bijection,
    Channels,
    Checkerboard,
    Encoded,
    Flow,
    Logit,
    squeeze,
    unsqueeze,
)
from genforge.networks.layers import halvings, zero
from genforge.settings import Settings


class RealNVPSettings(Settings):
    width: int = Field(32, ge=4, le=512, description="channels inside of the couplings' networks")
    blocks: int = Field(2, ge=0, le=16, description="residual blocks in each of them")
    couplings: int = Field(3, ge=2, le=16, description="couplings with each kind of mask a scale; the paper has 3")
    scales: int = Field(3, ge=1, le=6, description="scales; those whose side is odd already, or 4, are left out")
    alpha: float | None = Field(
        0.0005,
        gt=0.0,
        lt=0.5,
        description="of the logit that pixels go through first (section 4.1; there 0.05): the smaller, the more room "
        "black and white get, which are most of a digit and little of a photograph; null: no logit",
    )


class Residual(nn.Module):
    """What scale and shift are made of: convolutions with residual blocks, with weight normalisation (Salimans & Kingma
    2016) as in the paper. The last layer begins at zero, and so each coupling as the identity."""

    def __init__(self, inputs: int, outputs: int, settings: RealNVPSettings, classes: int) -> None:
        super().__init__()
        width = settings.width
        self.label = OneHot(classes) if classes else None
        self.into = weight_norm(nn.Conv2d(inputs + planes(self.label), width, 3, padding=1))
        self.blocks = nn.ModuleList(
            weight_norm(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2 * settings.blocks)
        )
        self.out = zero(nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, a: Tensor, labels: Tensor | None) -> Tensor:
        h = self.into(join_planes(a, self.label, labels))
        layers = list(self.blocks)
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            h = h + second(functional.elu(first(functional.elu(h))))
        return self.out(functional.elu(h))


class RealNVP(Flow):
    """Images (n, c, h, w) with even sides to as many standard normal numbers, and back."""

    settings_type = RealNVPSettings
    channels_first_on_cpu: ClassVar[bool] = True  # squeezes, halves and masks move channels about

    def __init__(self, settings: RealNVPSettings, port: Port) -> None:
        super().__init__(settings, port)
        image = port.image
        self.logit = Logit(settings.alpha) if settings.alpha is not None else None
        self.stages = (
            nn.ModuleList()
        )  # a list of bijections a stage; after each but the last half of the channels leave
        channels, height, width = image.channels, image.height, image.width
        for _ in range(min(settings.scales - 1, halvings(image))):
            self.stages.append(self._couplings(channels, settings, checkerboard=True))
            channels, height, width = 4 * channels, height // 2, width // 2
            self.stages.append(self._couplings(channels, settings, checkerboard=False))
            channels //= 2
        even = height % 2 == 0 and width % 2 == 0
        self.stages.append(self._couplings(channels, settings, checkerboard=even))

    def _couplings(self, channels: int, settings: RealNVPSettings, checkerboard: bool) -> nn.ModuleList:
        layers: list[Bijection] = []
        for number in range(settings.couplings):
            turned = bool(number % 2)
            halves = Checkerboard(channels, turned) if checkerboard else Channels(channels, turned)
            network = Residual(halves.read, 2 * halves.changed, settings, self.port.classes)
            layers += [ActivationNorm(channels), AffineCoupling(network, halves)]
        return nn.ModuleList(layers)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Encoded:
        x, total = images.float(), images.new_zeros(len(images), dtype=torch.float32)
        if self.logit is not None:
            x, total = self.logit(x, labels)
        left: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            if number % 2:
                x = squeeze(x)
            for layer in stage:  # type: ignore[attr-defined]
                x, log_determinant = layer(x, labels)
                total = total + log_determinant
            if number % 2:
                x, leaves = x.chunk(2, dim=1)
                left.append(leaves.flatten(1))
        return torch.cat([*left, x.flatten(1)], dim=1), total

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        sizes, shapes = self._leaving()
        *left, rest = latent[:, : self.port.image.size].split(sizes, dim=1)
        x = rest.unflatten(1, shapes[-1])
        for number, stage in reversed(list(enumerate(self.stages))):
            if number % 2:
                x = torch.cat([x, left.pop().unflatten(1, shapes[number // 2])], dim=1)
            for layer in reversed(stage):  # type: ignore[call-overload]
                x = layer.inverse(x, labels)
            if number % 2:
                x = unsqueeze(x)
        return x if self.logit is None else self.logit.inverse(x, labels)

    def _leaving(self) -> tuple[list[int], list[tuple[int, int, int]]]:
        """How many numbers leave at each scale, in the order of the latent, and in which shape (c, h, w)."""
        image = self.port.image
        channels, height, width = image.channels, image.height, image.width
        shapes = []
        for _ in range(len(self.stages) // 2):
            channels, height, width = 2 * channels, height // 2, width // 2
            shapes.append((channels, height, width))
        shapes.append((channels, height, width))
        return [c * h * w for c, h, w in shapes], shapes
