"""Likelihoods under autoregressive networks: the product of what they say of value after value. Exact, and of levels of
brightness, so that there is nothing to dequantise and no noise to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from genforge.contracts import EIGHT_BIT, Density, Draw, Network
from genforge.networks.autoregressive import AutoregressiveNetwork
from genforge.settings import Settings

TOGETHER = 64  # images in one pass: 256 logits a value take memory


class PixelwiseDensitySettings(Settings):
    """There is nothing to set: the network says it all."""


class PixelwiseDensity(Density):
    kinds: ClassVar[tuple[str, ...]] = ("autoregressive",)
    settings_type = PixelwiseDensitySettings
    exact = True
    how = "exact; of levels, not dequantised"

    def of(self, networks: Mapping[str, Network]) -> str:
        (network,) = networks.values()
        assert isinstance(network, AutoregressiveNetwork)
        if network.bits == 8:
            return EIGHT_BIT
        return f"{network.bits}-bit images, the upper bits of 8" if network.bits > 1 else "images in black and white"

    @torch.no_grad()
    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        (network,) = networks.values()
        labels = None if draw.labels is None else draw.labels.to(images.device)
        told = []
        for start in range(0, len(images), TOGETHER):
            part = slice(start, start + TOGETHER)
            values = network(images[part], None if labels is None else labels[part])
            told.append(values.flatten(1).double().sum(1))
        return torch.cat(told) if told else images.new_zeros(0, dtype=torch.float64)
