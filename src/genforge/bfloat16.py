"""Arithmetic in bfloat16: numbers of float32's range and of three digits, half the bytes."""

from __future__ import annotations

from functools import cache

import torch


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor does, in hardware: elsewhere float32 is faster."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
