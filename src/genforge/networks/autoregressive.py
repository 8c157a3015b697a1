"""What every autoregressive network is: the probability of an image as the product of those of its values.

    log p(image) = sum over i of log p(value i | values before i)

Pixels come row by row, from the left to the right, and within a pixel red before green before blue. A network states
one thing, the features of each pixel: what the pixels before it say about it, and nothing of the pixel itself or of
those after it. Its head (genforge.networks.pixel_heads) turns them into probabilities of the pixel's values.

Images are taken in levels of brightness, 256 for 8-bit images, so that these are probabilities and no densities:
nothing is dequantised, and over all images they sum to one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import Network, Port, PortKind
from genforge.networks.pixel_heads import Categorical, Head, LogisticMixture
from genforge.settings import Settings

Walk = Generator[Tensor, Tensor, None]


class AutoregressiveSettings(Settings):
    head: Literal["logistic-mixture", "categorical"] = Field(
        "logistic-mixture",
        description="logistic-mixture: neighbouring levels are alike (Salimans et al. 2017); categorical: a "
        "probability for each level by itself (van den Oord et al. 2016)",
    )
    mixtures: int = Field(10, ge=1, le=100, description="logistic-mixture: components")
    features: int = Field(64, ge=4, le=1024, description="values a pixel that the head is given")
    bits: int = Field(
        8,
        ge=1,
        le=8,
        description="of brightness, the upper ones of 8; 1: images in black and white, whose head is categorical",
    )


class AutoregressiveNetwork(Network):
    """Images (n, c, h, w) in [-1, 1] to the log-probability of each of their values, (n, c, h, w), in nats.

    A new one states `features`, for whole images, and `walk`, the same pixel after pixel and without doing anything
    twice.
    """

    kind: ClassVar[PortKind] = "autoregressive"

    def __init__(self, settings: AutoregressiveSettings, port: Port) -> None:
        super().__init__(settings, port)
        self.bits = settings.bits
        features, channels, levels = settings.features, port.image.channels, 2**settings.bits
        self.head: Head
        if settings.head == "categorical" or settings.bits == 1:
            self.head = Categorical(features, channels, levels)
        else:
            self.head = LogisticMixture(features, channels, levels, settings.mixtures)

    @abstractmethod
    def features(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """What is known of each pixel from those before it: (n, c, h, w) in [-1, 1] to (n, h, w, features)."""

    @abstractmethod
    def walk(self, count: int, labels: Tensor | None) -> Walk:
        """The features of `count` images pixel by pixel: yields (n, features) of the next pixel and is sent its values,
        (n, c), h * w times."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        levels = to_levels(images, self.bits)
        # The network sees the image in its own levels too: what it is asked for must not lie in finer ones.
        features = self.features(to_values(levels, self.bits).to(images.dtype), labels)
        return self.head.log_probabilities(features, levels.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def to_levels(images: Tensor, bits: int) -> Tensor:
    """Images in [-1, 1] to the upper `bits` of their 8-bit pixels, int64, 0 to 2^bits - 1."""
    return images.detach().float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.int64) >> (8 - bits)


def to_values(levels: Tensor, bits: int) -> Tensor:
    """Levels, int64, 0 to 2^bits - 1, to values in [-1, 1], float32, that are taken for the same levels again."""
    return levels.to(torch.float32).mul(2.0 / (2**bits - 1)).sub(1.0)
