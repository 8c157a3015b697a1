"""The convolution that halves the sides, 4x4 with stride 2, and its transpose, which doubles them.

Both are torch's layers, weights and results. On a CPU in bfloat16 torch hands them to oneDNN, whose kernels are near
the processor's peak for most sizes and far from it for a few; those are written here as what the same sums come to:

- transposed, to few channels (an image's 3), every output place is a sum over 2x2 inputs: one 2x2 convolution to four
  times the channels, one for each parity of the place, interleaved (Shi et al. 2016, "Real-time single image and video
  super-resolution", section 3; the other way round, this is the slope of images that the critic is shown);
- the slope of weights is a product of two matrices, of which one has each window as a row. Over few places that is
  faster. On several threads it is so over many, too: oneDNN's threads wait for one another by spinning, which takes a
  twentieth less of a step on cores that nobody else uses, and makes it several times as long on others;
- the slope of a bias is a sum, which oneDNN's transposed convolution takes one number at a time.

docs/benchmarks.md has what they take. Slopes may be differentiated again, as penalties on the critic's do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from genforge.networks.layers import laid_alike

KERNEL, STRIDE, AROUND = 4, 2, 1
FEW_CHANNELS = 4  # oneDNN computes transposed convolutions in blocks of 16 channels
FEW_PLACES = 8  # a side: up to here the product of matrices is as fast on one thread as oneDNN's slope


class Halve(nn.Conv2d):
    """(n, inputs, h, w) to (n, outputs, h/2, w/2); h and w even."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, STRIDE, AROUND)

    def forward(self, images: Tensor) -> Tensor:
        if not _is_worth_it(images):
            return super().forward(images)
        assert self.bias is not None
        return _Halve.apply(laid_alike(images).bfloat16(), self.weight.bfloat16(), self.bias.bfloat16())


class Double(nn.ConvTranspose2d):
    """(n, inputs, h, w) to (n, outputs, 2h, 2w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, STRIDE, AROUND)

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _is_worth_it(images):
            return super().forward(images, output_size)
        assert self.bias is not None
        return _Double.apply(laid_alike(images).bfloat16(), self.weight.bfloat16(), self.bias.bfloat16())


def _is_worth_it(images: Tensor) -> bool:
    """Whether torch would compute this in bfloat16 on a CPU, and is not writing it down for its compiler."""
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return images.dtype == torch.bfloat16


class _Halve(Function):
    """Each of the two is the other's slope in the images; the weight, (small, large, 4, 4) in channels, is the same."""

    @staticmethod
    def forward(context: Any, large: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(large, weight)
        return functional.conv2d(large, weight, bias, STRIDE, AROUND)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Any:
        (slope,), (large, weight) = slopes, context.saved_tensors
        in_images, in_weight, in_bias = context.needs_input_grad
        return (
            _Double.apply(slope, weight, None) if in_images else None,
            _slope_of_weight(slope, large) if in_weight else None,
            slope.sum(dim=(0, 2, 3)) if in_bias else None,
        )


class _Double(Function):
    @staticmethod
    def forward(context: Any, small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(small, weight)
        if weight.shape[1] <= FEW_CHANNELS:
            return _interleaved(small, weight, bias)
        return functional.conv_transpose2d(small, weight, bias, STRIDE, AROUND)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Any:
        (slope,), (small, weight) = slopes, context.saved_tensors
        in_images, in_weight, in_bias = context.needs_input_grad
        return (
            _Halve.apply(slope, weight, None) if in_images else None,
            _slope_of_weight(small, slope) if in_weight else None,
            slope.sum(dim=(0, 2, 3)) if in_bias else None,
        )


def _interleaved(small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The transposed convolution as one of 2x2.

    The 2x2 inputs at i and i + 1 make the outputs 2i + 1, with rows 2 and 0 of the weight, and 2i + 2, with rows 3 and
    1; so do columns. i runs from -1, so that the first output and the last are of places outside, and cut off.
    """
    inputs, outputs = weight.shape[:2]
    rows = weight.view(inputs, outputs, 2, 2, 2, 2).flip(2, 4)  # inputs, outputs, input row, parity, column, parity
    quarters = rows.permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 2, 2)
    every = None if bias is None else bias.repeat_interleave(4)
    places = functional.conv2d(small, quarters, every, padding=1)  # n, 4 outputs, h + 1, w + 1
    return functional.pixel_shuffle(places, 2)[:, :, 1:-1, 1:-1]


def _slope_of_weight(small: Tensor, large: Tensor) -> Tensor:
    """(small's channels, large's, 4, 4): how what stands at small's places goes with large's window there."""
    (few, height, width), many = small.shape[1:], large.shape[1]
    if max(height, width) > FEW_PLACES and torch.get_num_threads() == 1:
        shape = (few, many, KERNEL, KERNEL)
        return conv2d_weight(large, shape, small, STRIDE, AROUND)
    windows = functional.pad(large, (AROUND,) * 4).unfold(2, KERNEL, STRIDE).unfold(3, KERNEL, STRIDE)
    rows = windows.permute(0, 2, 3, 4, 5, 1).reshape(-1, KERNEL * KERNEL * many)  # (n h w, 4 4 many)
    product = small.transpose(0, 1).flatten(1) @ rows
    return product.view(few, KERNEL, KERNEL, many).permute(0, 3, 1, 2)
