"""The U-Net of diffusion models (Ho et al. 2020, appendix B), with the scale and shift of Dhariwal & Nichol 2021.

Here the way up has as many blocks a level as the way down, each joined to its twin, where Ho et al. have one more: a
third less work at the same width. Every residual branch and the last layer begin at zero.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import Network, Port, PortKind
from genforge.networks.layers import (
    FourierEmbedding,
    LabelEmbedding,
    SinusoidalEmbedding,
    group_norm,
    halvings,
    lies_channels_last,
    zero,
)
from genforge.settings import Settings

Multiplier = Annotated[int, Field(ge=1, le=64)]


class UNetSettings(Settings):
    width: int = Field(32, ge=4, le=512, multiple_of=4, description="channels at full size")
    multipliers: tuple[Multiplier, ...] = Field(
        (1, 2, 2),
        min_length=1,
        max_length=6,
        description="channels of each level as a multiple of width, from full size down; each level halves the side, "
        "and those that cannot (an odd side, or one of 4 pixels) are left out",
    )
    blocks: int = Field(1, ge=1, le=8, description="residual blocks a level, on the way down and again on the way up")
    attention_up_to: int = Field(
        8, ge=0, le=64, description="self-attention where the side is at most this many pixels; 0: nowhere"
    )
    head_width: int = Field(32, ge=4, description="channels of one attention head; fewer where the level has fewer")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="share of values dropped in residual blocks in training")
    time_embedding: Literal["sinusoidal", "fourier"] = Field(
        "sinusoidal", description="sinusoidal: fixed frequencies (Ho 2020); fourier: random ones (Song 2021)"
    )


def silu(fresh: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else has: in its own memory where nothing learns, since finding memory for large
    images takes as long as filling it."""
    return functional.silu(fresh, inplace=not torch.is_grad_enabled())


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as a product of matrices: of many pixels it takes a third of the time on a CPU. What comes out
    lies in memory as the images do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        if lies_channels_last(x):
            return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        matrices = self.weight.flatten(1).expand(len(x), -1, -1)  # (n, outputs, inputs)
        return torch.baddbmm(self.bias[:, None], matrices, x.flatten(2)).unflatten(2, x.shape[2:])


class Grow(nn.Conv2d):
    """A 3x3 convolution of the image whose pixels are doubled both ways, without making that image.

    Doubling is a transposed convolution with ones, so that both together are one with the 3x3 kernel summed over 2x2:
    4 products a pixel and channel in place of 9 (Shi et al. 2016, "Is the deconvolution layer the same as a
    convolutional layer?").
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, 2 h, 2 w)."""
        padded = functional.pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))  # (inputs, outputs, 5, 5)
        rows = padded[:, :, 1:] + padded[:, :, :-1]
        return functional.conv_transpose2d(x, rows[..., 1:] + rows[..., :-1], self.bias, stride=2, padding=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the time embedding scales and shifts between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.first_norm = group_norm(inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.second_norm = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.second = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = Pointwise(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding).chunk(2, dim=1)  # each (n, outputs)
        h = self.first(silu(self.first_norm(x)))
        h = self.second_norm(h, scale, shift)
        return self.shortcut(x) + self.second(self.dropout(silu(h)))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d)) value (Vaswani et al. 2017, equation 1); each (n, heads, pixels, d)."""
    if query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # torch's fast attention takes several times as long in its backward pass here, and its plain one multiplies in
        # float32.
        closeness = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return closeness.softmax(dim=-1) @ value
    # Fast attention wants a head's channels side by side in memory.
    return functional.scaled_dot_product_attention(query.contiguous(), key.contiguous(), value.contiguous())


class Attention(nn.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_width)
        while channels % self.heads:
            self.heads -= 1
        self.norm = group_norm(channels)
        self.project_in = nn.Conv2d(channels, 3 * channels, 1)
        self.project_out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        mixed = self.project_in(self.norm(x)).reshape(n, 3 * self.heads, channels // self.heads, height * width)
        query, key, value = mixed.transpose(-1, -2).chunk(3, dim=1)  # each (n, heads, pixels, channels of a head)
        attended = attend(query, key, value)
        return x + self.project_out(attended.transpose(-1, -2).reshape(n, channels, height, width))


class Block(nn.Module):
    """A residual block, and attention where its size asks for it."""

    def __init__(self, inputs: int, outputs: int, embedding: int, settings: UNetSettings, side: int) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, embedding, settings.dropout)
        self.attention = Attention(outputs, settings.head_width) if side <= settings.attention_up_to else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.residual(x, embedding))


class UNet(Network):
    """Images (n, c, h, w), time (n,) of order 0 to 1 and labels (n,) or None to (n, outputs, h, w)."""

    kind: ClassVar[PortKind] = "backbone"
    settings_type = UNetSettings

    def __init__(self, settings: UNetSettings, port: Port) -> None:
        super().__init__(settings, port)
        levels = min(len(settings.multipliers), 1 + halvings(port.image))
        widths = [settings.width * multiplier for multiplier in settings.multipliers[:levels]]
        sides = [max(port.image.height, port.image.width) >> level for level in range(levels)]
        embedding = 4 * settings.width
        embed = SinusoidalEmbedding if settings.time_embedding == "sinusoidal" else FourierEmbedding
        self.time = nn.Sequential(
            embed(settings.width),
            nn.Linear(settings.width, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        self.label = LabelEmbedding(port.classes, embedding, port.unlabelled) if port.classes else None
        self.enter = nn.Conv2d(port.image.channels, settings.width, 3, padding=1)

        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        channels = settings.width
        for level, (width, side) in enumerate(zip(widths, sides, strict=True)):
            blocks = nn.ModuleList()
            for _ in range(settings.blocks):
                blocks.append(Block(channels, width, embedding, settings, side))
                channels = width
            self.down.append(blocks)
            last = level == levels - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(channels, channels, 3, stride=2, padding=1))

        self.middle = nn.ModuleList(Block(channels, channels, embedding, settings, sides[-1]) for _ in range(2))

        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(levels)):
            blocks = nn.ModuleList()
            for _ in range(settings.blocks):
                blocks.append(Block(channels + widths[level], widths[level], embedding, settings, sides[level]))
                channels = widths[level]
            self.up.append(blocks)
            self.grow.append(Grow(channels) if level else nn.Identity())

        self.leave_norm = group_norm(channels)
        self.leave = zero(nn.Conv2d(channels, port.outputs, 3, padding=1))

    def forward(self, images: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.time(time)
        if self.label is not None:
            embedding = embedding + self.label(labels)
        embedding = functional.silu(embedding)

        x = self.enter(images)
        twins: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = block(x, embedding)
                twins.append(x)
            x = self.shrink[level](x)

        for block in self.middle:
            x = block(x, embedding)

        for level, blocks in enumerate(self.up):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = block(torch.cat([x, twins.pop()], dim=1), embedding)
            if level < len(self.up) - 1:
                x = self.grow[level](x)
        return self.leave(silu(self.leave_norm(x)))
