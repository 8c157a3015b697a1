"""What a denoiser is built over where there are no pixels to convolve: residual linear layers that are told the time.

Each block is x + W2 silu(W1 silu(LayerNorm(x)) * (1 + scale) + shift), with scale and shift from the embedding of the
time (and of the label), and W2 beginning at zero: the block of the U-Net (`unet.py`) without space.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import Network, Port, PortKind
from genforge.networks.layers import FourierEmbedding, LabelEmbedding, SinusoidalEmbedding, zero
from genforge.settings import Settings


class MLPBackboneSettings(Settings):
    width: int = Field(128, ge=4, le=4096, multiple_of=2, description="values in each layer")
    blocks: int = Field(3, ge=1, le=32, description="residual blocks, of two layers each")
    time_embedding: Literal["sinusoidal", "fourier"] = Field(
        "sinusoidal", description="sinusoidal: fixed frequencies (Ho 2020); fourier: random ones (Song 2021)"
    )


class Block(nn.Module):
    """Two linear layers beside a shortcut; the embedding scales and shifts between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.modulate = nn.Linear(width, 2 * width)
        self.second = zero(nn.Linear(width, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding).chunk(2, dim=1)  # each (n, width)
        h = self.first(functional.silu(self.norm(x)))
        return x + self.second(functional.silu(torch.addcmul(shift, h, scale + 1)))


class MLPBackbone(Network):
    """Points or images (n, c, h, w) and time (n,) to (n, outputs, h, w)."""

    kind: ClassVar[PortKind] = "backbone"
    settings_type = MLPBackboneSettings
    takes_points = True

    def __init__(self, settings: MLPBackboneSettings, port: Port) -> None:
        super().__init__(settings, port)
        width, image = settings.width, port.image
        self.time = (SinusoidalEmbedding if settings.time_embedding == "sinusoidal" else FourierEmbedding)(width)
        self.label = LabelEmbedding(port.classes, width, port.unlabelled) if port.classes else None
        self.embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.into = nn.Linear(image.size, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(width)
        self.out = zero(nn.Linear(width, port.outputs * image.height * image.width))

    def forward(self, images: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.time(time)
        if self.label is not None:
            embedding = embedding + self.label(labels)
        embedding = self.embed(embedding)
        h = self.into(images.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        values = self.out(functional.silu(self.norm(h)))
        return values.unflatten(1, (self.port.outputs, self.port.image.height, self.port.image.width))
