"""Layers that several networks share: normalisation, spectral normalisation, time and label embeddings."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from genforge.contracts import ImageShape
from genforge.randomness import quick_uniform

Normalisation = Literal["batch", "group", "none"]
Layer = TypeVar("Layer", bound=nn.Module)


def halvings(image: ImageShape) -> int:
    """How often both sides can be halved: as long as both are even and greater than 4.

    So 8 goes to 4, 28 to 14 to 7, 44 to 22 to 11, 64 to 32 to 16 to 8 to 4: every multiple of 4 from 8 to 64 is halved
    at least once and ends between 3 and 15.
    """
    height, width, count = image.height, image.width, 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) > 4:
        height, width, count = height // 2, width // 2, count + 1
    return count


class GroupNorm(nn.GroupNorm):
    """torch's (Wu & He 2018), with a scale and a shift of an image's own (Dhariwal & Nichol 2021, section 3)."""

    # With channels last torch goes through a group's few values of each place one by one: up to 20 times as long.
    channels_first_on_cpu: ClassVar[bool] = True

    def forward(self, images: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Images (n, c, h, w), normalised; given both, times 1 + scale, plus shift: (n, c)."""
        if scale is None or shift is None:
            return super().forward(images)
        # As one image of n c channels, whose weights are all images' own: scaled and shifted in the same pass.
        weight, bias = self.weight * (1 + scale), torch.addcmul(shift, self.bias, 1 + scale)
        channels = images.reshape(1, -1, *images.shape[2:])
        groups = len(images) * self.num_groups
        return functional.group_norm(channels, groups, weight.flatten(), bias.flatten(), self.eps).view(images.shape)


def group_norm(channels: int) -> GroupNorm:
    """Group normalisation with groups of at least 4 channels and at most 32 groups that divide the channels."""
    groups = max(count for count in range(1, 33) if channels % count == 0 and (channels // count >= 4 or count == 1))
    return GroupNorm(groups, channels)


def normalisation(kind: Normalisation, channels: int) -> nn.Module:
    """The layer of that name for images of `channels` channels; `none` passes its input on."""
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return group_norm(channels)
        case "none":
            return nn.Identity()


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with all parameters zero, so that a residual branch begins as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def draw_weights(network: nn.Module, deviation: float | None) -> None:
    """Draw the weights of convolutions and linear layers from a normal of this standard deviation, with biases zero, as
    Radford et al. 2016, section 3, do with 0.02. None leaves them as they are; so is a weight that spectral
    normalisation divides by its size anyway."""
    if deviation is None:
        return
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not is_parametrized(layer):
            nn.init.normal_(layer.weight, 0.0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SpectralNorm(nn.Module):
    """The parametrisation W -> W / s(W), where s is the largest singular value of W as a matrix (out, rest).

    One power iteration a forward pass in training, none in evaluation (Miyato et al. 2018, Algorithm 1). Both vectors
    are buffers, so a checkpoint goes on where it stopped. torch's own version multiplies in the precision of the
    surrounding autocast and so would estimate s in bfloat16; this one stays in the weight's.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, warm_up: int = 15) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("left", functional.normalize(torch.randn(matrix.shape[0], dtype=matrix.dtype), dim=0))
        self.register_buffer("right", functional.normalize(torch.randn(matrix.shape[1], dtype=matrix.dtype), dim=0))
        for _ in range(warm_up):
            self._iterate(matrix)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.right.copy_(functional.normalize(matrix.T @ self.left, dim=0))
        self.left.copy_(functional.normalize(matrix @ self.right, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                self._iterate(matrix)
            # Copies: a second pass before the backward pass must not change what the first one has recorded.
            largest = torch.dot(self.left.clone(), matrix @ self.right.clone())
            return weight / largest


def spectral_norm(layer: Layer, wanted: bool = True) -> Layer:
    """The layer with its weight kept at spectral norm one, or as it is when that is not wanted."""
    if wanted:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        register_parametrization(layer, "weight", SpectralNorm(weight))
    return layer


class Dropout(nn.Dropout):
    """torch's, whose coins are thrown in a tenth of the time on a CPU: `quick_uniform` decides which values are kept.

    There torch's own takes as long as the product of matrices beside it, in a network of 1024 values a layer.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.p or values.device.type != "cpu":
            return super().forward(values)
        kept = 1.0 - self.p
        # Compared in place, so that the answers are numbers: torch makes numbers of booleans one by one.
        coins = quick_uniform(values.shape, values.device).lt_(kept)
        return values * coins.mul_(1.0 / kept).to(values.dtype)


def lies_channels_last(images: Tensor) -> bool:
    """Whether images (n, c, h, w) have their channels side by side in memory, and not their places."""
    return not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)


class _LaidAlike(Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.layout = torch.channels_last if lies_channels_last(values) else torch.contiguous_format
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Tensor:
        return slopes[0].contiguous(memory_format=context.layout)


def laid_alike(images: Tensor) -> Tensor:
    """The same images (n, c, h, w), whose slope will lie in memory as they do, channels first or last.

    What is done place by place to numbers that lie in two ways takes twenty times as long as the copy that this costs.
    What torch's compiler writes goes without it.
    """
    return images if torch.compiler.is_compiling() else _LaidAlike.apply(images)


class Flatten(nn.Flatten):
    """Images to vectors (n, c h w)."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(laid_alike(images))


class SinusoidalEmbedding(nn.Module):
    """Time as sines and cosines of geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    Takes time of order 0 to 1, (n,), to (n, size). Frequencies run from 1000 down to 0.1 radians a unit of time: those
    of Ho et al. 2020 where time is the step divided by 1000.
    """

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        exponents = torch.linspace(0.0, 1.0, size // 2)
        self.register_buffer("frequencies", 1000.0 * torch.exp(-math.log(10_000.0) * exponents), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        angles = time.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """Time as sines and cosines of random frequencies (Tancik et al. 2020; Song et al. 2021, appendix C).

    Takes time of order 0 to 1, (n,), to (n, size). Frequencies are normal with standard deviation `scale` turns a unit
    of time, drawn once and kept with the weights: for time that is not spread evenly, such as EDM's log sigma / 4.
    """

    frequencies: Tensor

    def __init__(self, size: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(size // 2))

    def forward(self, time: Tensor) -> Tensor:
        angles = time.float()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class LabelEmbedding(nn.Module):
    """A learned vector a class, and one for no class where labels may be missing: labels (n,) int64 to (n, size)."""

    def __init__(self, classes: int, size: int, unlabelled: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + int(unlabelled), size)

    def forward(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError("this network is conditioned on labels, but got none")
        return self.table(labels)
