"""Arithmetic with fewer digits than float32 has: bfloat16 on a CPU, TF32 on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import torch


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor does, in hardware: elsewhere float32 is faster."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within the block a GPU's float32 products and convolutions round their inputs to 10 bits, or do not."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = allowed, allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
