"""Seeds and noise that depend on nothing but their names.

Training takes torch's own generators, whose states are in the checkpoint; so does `quick_uniform`. Sampling takes
`normal` and `uniform` below: a counter-based generator (Philox-4x32-10, Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3") whose counter is (element, image index, stream), so that image i of a seed is the same image at any
batch size, in any order and on any device.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # `derive` needs no torch, and a search's worker nothing else: it starts a second sooner
    import torch
    from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def derive(seed: int, *names: str | int) -> int:
    """A seed in 0..2^63-1 for a purpose, from the run's seed and the purpose's names. Stable between versions."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def quick_uniform(shape: Sequence[int], device: torch.device | str) -> Tensor:
    """Uniform noise, float32, from torch's own generator, for where sixteen bits are enough: to decide with a
    probability, that is.

    On a CPU torch takes a number of its generator for every value; here one gives four, in a fifth of the time. They
    are the middles of 65,536 cells of (0, 1), so that a probability is off by 2^-17 at most.
    """
    import torch

    if torch.device(device).type != "cpu":
        return torch.rand(shape, device=device)
    if torch.compiler.is_compiling():
        noise: Tensor = torch.ops.genforge.quick_uniform(list(shape))
        return noise
    size = math.prod(shape)
    words = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return words[:size].to(torch.float32).add_(2**15 + 0.5).mul_(2.0**-16).reshape(shape)


@cache
def make_traceable() -> None:
    """Tell torch's compiler of `quick_uniform`, of which it would not make a program: it is called as it is."""
    import torch

    def noise(shape: list[int]) -> torch.Tensor:
        return quick_uniform(shape, "cpu")

    tags = (torch.Tag.nondeterministic_seeded,)  # two calls are two draws
    noise.__annotations__ = {"shape": list[int], "return": torch.Tensor}
    operation = torch.library.custom_op("genforge::quick_uniform", noise, mutates_args=(), tags=tags)
    operation.register_fake(torch.empty)


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product, in int64 without overflow into the sign."""
    low, high = b & 0xFFFF, b >> 16
    first = a * low  # at most 48 bits
    second = a * high
    total = first + ((second & 0xFFFF) << 16)
    return ((second >> 16) + (total >> 32)) & _MASK, total & _MASK


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox-4x32-10. Four int64 tensors of 32-bit words that broadcast, and two 32-bit key words, to four of words."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(x0, _MULTIPLIERS[0])
        high1, low1 = _multiply(x2, _MULTIPLIERS[1])
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return x0, x1, x2, x3


def _words(seed: int, indices: Tensor, size: int, stream: int) -> Tensor:
    """Random 32-bit words, int64 (n, blocks, 4) with 4 * blocks >= size."""
    import torch

    blocks = -(-size // 4)
    device = indices.device
    element = torch.arange(blocks, device=device, dtype=torch.int64).expand(len(indices), blocks)
    image = indices.to(torch.int64)[:, None].expand(len(indices), blocks)
    key = (seed & _MASK, (seed >> 32) & _MASK)
    counter = (element, image & _MASK, image >> 32, torch.full_like(element, stream))
    return torch.stack(philox(counter, key), dim=-1)


def uniform(seed: int, indices: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Uniform noise in (0, 1), float32 (n, *shape), on the device of `indices`.

    Args:
        seed: the sampling seed, 0..2^63-1.
        indices: image numbers, (n,) int64.
        shape: of the noise of one image.
        stream: which noise of this image: 0 for the start, k for the k-th step of a sampler.
    """
    import torch

    size = math.prod(shape)
    words = _words(seed, indices, size, stream).flatten(1)[:, :size]
    # 23 bits and a half: the most that float32 holds without rounding up to 1.
    return ((words >> 9).to(torch.float32) + 0.5).mul_(2.0**-23).reshape(len(indices), *shape)


def normal(seed: int, indices: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Standard normal noise, float32 (n, *shape), by Box-Muller over `uniform`'s words. Arguments as there."""
    import torch

    size = math.prod(shape)
    words = _words(seed, indices, size, stream)
    # The logarithm is taken in double precision so that CPU and GPU agree to float32 rounding.
    unit = ((words >> 8).to(torch.float64) + 0.5).mul_(2.0**-24)
    radius = unit[..., 0::2].log().mul_(-2.0).sqrt_()
    angle = unit[..., 1::2].mul(2.0 * math.pi)
    pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return pairs.flatten(1)[:, :size].to(torch.float32).reshape(len(indices), *shape)
