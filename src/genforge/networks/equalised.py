"""Layers of Karras et al. 2018, "Progressive growing of GANs", which the style-based networks share.

Equalised learning rate (section 4.1): weights begin as standard normal noise and are divided by the root of their
fan-in whenever they are used, so that Adam, which moves every weight by about as much, does so with every layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2  # of the leaky rectifier below zero
KEPT = 0.9  # of the running mean of the batch's deviation, an update


class EqualisedLinear(nn.Module):
    """(n, inputs) to (n, outputs).

    Args:
        bias: what all biases begin as. rate: by how much this layer learns more slowly than others (or faster).
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(values, self.weight * self.scale, self.bias * self.rate)


class EqualisedConv(nn.Module):
    """(n, inputs, h, w) to (n, outputs, h, w); with `stride` 2 and no `padding` of its own to fewer places."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale, self.stride = 1 / math.sqrt(inputs * size**2), stride
        self.padding = size // 2 if padding is None else padding

    def forward(self, values: Tensor) -> Tensor:
        return functional.conv2d(values, self.weight * self.scale, self.bias, self.stride, self.padding)


class MinibatchDeviation(nn.Module):
    """Adds a plane that says how varied the batch is: (n, c, h, w) to (n, c + 1, h, w). Section 3.

    Its value is the standard deviation over the batch, averaged over channels and places, so that the critic sees when
    a generator draws the same image over and over. In evaluation it is the running mean of that, and an image's output
    depends on the image alone. Real and generated images must come in passes of their own.
    """

    running: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.tensor(1.0))

    def forward(self, values: Tensor) -> Tensor:
        count, _, height, width = values.shape
        if self.training:
            # The root has no finite derivative at zero, where all images of a batch are the same one.
            deviation = (values.float().var(dim=0, correction=0) + 1e-8).sqrt().mean()
            self.running.lerp_(deviation.detach(), 1 - KEPT)
        else:
            deviation = self.running
        return torch.cat([values, deviation.to(values.dtype).expand(count, 1, height, width)], dim=1)


def unit_length(values: Tensor) -> Tensor:
    """Every place's vector over the channels divided by its root mean square: PixelNorm of section 4.2. (n, c, ...)."""
    return values * (values.float().square().mean(dim=1, keepdim=True) + 1e-8).rsqrt().to(values.dtype)


def rectified(values: Tensor) -> Tensor:
    """The leaky rectifier, times the root of 2, so that it leaves the size of values about as it was."""
    return functional.leaky_relu(values, SLOPE) * math.sqrt(2)
