"""The gated PixelCNN (van den Oord et al. 2016b, "Conditional image generation with PixelCNN decoders").

Two stacks of convolutions go over the image. The vertical one sees all rows above, the horizontal one what is to the
left in the pixel's own row, and is told by the vertical one at every layer: together everything before the pixel, with
no blind spot. The paper masks its kernels; here they are cut down to what a mask would leave, which is the same
function for half the work. Gates are the paper's eq. 2, labels its eq. 4.

Where we differ: the vertical stack has shortcuts too, without which a deep one hands on little at the start; and both
may be told where in the image they are, which the paper's eq. 4 leaves open for a description that is an image itself.

Drawn pixel by pixel, the network does nothing twice (after Ramachandran et al. 2017, "Fast generation for convolutional
autoregressive models"): the vertical stack is done once a row, the horizontal one once a pixel, so that an image costs
as much as one pass over it, where the plain way costs one pass a pixel.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import ImageShape, Port
from genforge.networks.autoregressive import AutoregressiveNetwork, AutoregressiveSettings, Walk
from genforge.networks.layers import Dropout, LabelEmbedding


class PixelCNNSettings(AutoregressiveSettings):
    width: int = Field(32, ge=4, le=512, multiple_of=4, description="channels of each stack")
    layers: int = Field(6, ge=2, le=64, description="gated layers; each lets a pixel see kernel // 2 pixels further")
    kernel: Literal[3, 5, 7, 9] = Field(3, description="side in pixels of the layers' kernels, before they are cut")
    first_kernel: Literal[3, 5, 7, 9, 11, 13, 15] = Field(
        7, description="the same of the first layer, which sees the image itself"
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="share of values dropped after the horizontal gates")
    positions: bool = Field(
        True,
        description="let both stacks know where in the image they are, by a learned vector a pixel each: for images "
        "that are laid out alike, such as centred digits; without it they know of near edges alone",
    )


class GatedLayer(nn.Module):
    """One layer of both stacks. In the first, the vertical one does not see the pixel's row, the horizontal one not the
    pixel itself; in the others they see what the layer before made of it."""

    def __init__(self, inputs: int, width: int, kernel: int, classes: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.reach, self.first = kernel // 2, first
        taps = self.reach if first else self.reach + 1
        self.vertical = nn.Conv2d(inputs, 2 * width, (taps, 2 * self.reach + 1))
        self.horizontal = nn.Conv2d(inputs, 2 * width, (1, taps), bias=False)  # `across` has one
        self.across = nn.Conv2d(2 * width, 2 * width, 1)  # from the vertical stack to the horizontal one
        self.out = nn.Conv2d(width, width, 1)
        self.label = LabelEmbedding(classes, 4 * width) if classes else None
        self.dropout = Dropout(dropout)

    def forward(self, above: Tensor, left: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks, each (n, inputs, h, w), to (n, width, h, w)."""
        height, width = above.shape[2:]
        reach = self.reach
        for_vertical, for_horizontal = self.by_label(labels)
        seen = functional.pad(above, (reach, reach, reach, 0))
        vertical = self.vertical(seen)[:, :, :height]
        down, told = self.finish_vertical(vertical, None if self.first else above, for_vertical)
        beside = self.horizontal(functional.pad(left, (reach, 0)))[:, :, :, :width] + told
        if for_horizontal is not None:
            beside = beside + for_horizontal
        right = self.out(self.dropout(gate(beside)))
        return down, right if self.first else left + right

    def finish_vertical(self, seen: Tensor, below: Tensor | None, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the convolution saw, (n, 2 * width, rows, w), to the stack's rows (n, width, rows, w), added to those of
        the layer below where there is one, and to what the horizontal stack is told, (n, 2 * width, rows, w)."""
        own = gate(seen if label is None else seen + label)
        return own if below is None else below + own, self.across(seen)

    def by_label(self, labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the label adds before the gates of either stack, each (n, 2 * width, 1, 1)."""
        if self.label is None:
            return None, None
        vertical, horizontal = self.label(labels)[:, :, None, None].chunk(2, dim=1)
        return vertical, horizontal


class Places(nn.Module):
    """What tells either stack where it is: a learned vector a pixel, (width, h, w), after the first layer."""

    def __init__(self, width: int, image: ImageShape) -> None:
        super().__init__()
        self.above = nn.Parameter(torch.zeros(width, image.height, image.width))
        self.left = nn.Parameter(torch.zeros(width, image.height, image.width))


class PixelCNN(AutoregressiveNetwork):
    """See the head of this file."""

    settings_type = PixelCNNSettings

    def __init__(self, settings: PixelCNNSettings, port: Port) -> None:
        super().__init__(settings, port)
        first = GatedLayer(
            port.image.channels, settings.width, settings.first_kernel, port.classes, settings.dropout, first=True
        )
        others = [
            GatedLayer(settings.width, settings.width, settings.kernel, port.classes, settings.dropout, first=False)
            for _ in range(settings.layers - 1)
        ]
        self.layers = nn.ModuleList([first, *others])
        self.places = Places(settings.width, port.image) if settings.positions else None
        self.leave = nn.Linear(settings.width, settings.features)

    def features(self, values: Tensor, labels: Tensor | None) -> Tensor:
        vertical = horizontal = values
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, labels)
            if layer is self.layers[0] and self.places is not None:
                vertical, horizontal = vertical + self.places.above, horizontal + self.places.left
        return self.leave(functional.relu(horizontal.permute(0, 2, 3, 1)))

    def walk(self, count: int, labels: Tensor | None) -> Walk:
        image = self.port.image
        lines = [_Line(layer, count, image.width, labels) for layer in self.layers if isinstance(layer, GatedLayer)]
        for number in range(image.height):
            # The vertical stack of the whole row: it hangs on the rows above alone.
            row = None
            for line in lines:
                row = line.begin_row(row)
                if line is lines[0] and self.places is not None:
                    row = row + self.places.above[:, number, None]

            # The horizontal stack, a pixel at a time.
            pixels: list[Tensor] = []
            for column in range(image.width):
                state = None
                for line in lines:
                    state = line.pixel(column, state)
                    if line is lines[0] and self.places is not None:
                        state = state + self.places.left[:, number, column]
                assert state is not None
                values = yield self.leave(functional.relu(state))
                lines[0].see(column, values)
                pixels.append(values)
            lines[0].end_row(torch.stack(pixels, dim=-1)[:, :, None])  # (n, c, 1, w)


class _Line:
    """What one layer remembers of `count` images while they are drawn: the rows above that its vertical convolution
    still needs, what the horizontal stack is told in this row, and the horizontal stack's own row so far."""

    def __init__(self, layer: GatedLayer, count: int, width: int, labels: Tensor | None) -> None:
        self.layer, self.width, self.reach = layer, width, layer.reach
        weight = layer.horizontal.weight  # (2 * width, inputs, 1, taps)
        inputs, self.taps = weight.shape[1], weight.shape[3]
        self.beside = weight.squeeze(2).transpose(1, 2).flatten(1)  # (2 * width, taps * inputs)
        self.out = layer.out.weight.flatten(1)  # (width, width)
        self.for_vertical, for_horizontal = layer.by_label(labels)
        self.for_horizontal = None if for_horizontal is None else for_horizontal.squeeze(3)  # (n, 2 * width, 1)
        self.above = weight.new_zeros(count, inputs, layer.vertical.weight.shape[2], width + 2 * self.reach)
        self.row = weight.new_zeros(count, width + self.reach, inputs)
        self.told = weight.new_empty(0)  # (n, w, 2 * width), of this row

    def begin_row(self, row: Tensor | None) -> Tensor:
        """The vertical stack's next row (n, width, 1, w), from that of the layer below (of the first layer: None, since
        it sees the rows above alone)."""
        if row is not None:
            self.end_row(row)
        down, told = self.layer.finish_vertical(self.layer.vertical(self.above), row, self.for_vertical)
        told = told.squeeze(2)
        if self.for_horizontal is not None:
            told = told + self.for_horizontal
        self.told = told.transpose(1, 2).contiguous()
        return down

    def end_row(self, row: Tensor) -> None:
        """Remember a row, (n, inputs, 1, w), as the last of those above."""
        row = functional.pad(row, (self.reach, self.reach))
        self.above = torch.cat([self.above[:, :, 1:], row], dim=2)

    def pixel(self, column: int, state: Tensor | None) -> Tensor:
        """The horizontal stack at this pixel, (n, width), from the layer before (None: this is the first)."""
        if state is not None:
            self.see(column, state)
        window = self.row[:, column : column + self.taps].flatten(1)  # (n, taps * inputs)
        beside = torch.addmm(self.told[:, column], window, self.beside.T)
        right = functional.linear(gate(beside), self.out, self.layer.out.bias)
        return right if state is None else state + right

    def see(self, column: int, values: Tensor) -> None:
        """Remember the horizontal stack's input at this pixel, (n, inputs)."""
        self.row[:, column + self.reach] = values


def gate(x: Tensor) -> Tensor:
    """tanh of one half of the channels, let through by the sigmoid of the other half: (n, 2 * width, ...) to
    (n, width, ...). Van den Oord et al. 2016b, eq. 2."""
    signal, opening = x.chunk(2, dim=1)
    return signal.tanh() * opening.sigmoid()
