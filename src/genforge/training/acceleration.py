"""What makes steps fast and is not everywhere: each asked for in `TrainingSettings`, and left out, with one line, where
this machine lacks it.

docs/benchmarks.md has what each of them gains, and that images are no worse for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import mmap
import os
import platform
import shutil
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import nn

from genforge.arithmetic import multiplies_bfloat16
from genforge.progress import say
from genforge.training.settings import TrainingSettings

# Of glibc's mallopt (malloc.h), and what is asked of it.
LARGEST_QUICK, TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = 1, -1, -2, -4
KEPT_FREE = 512 * 2**20  # bytes that stay with the process when they are freed
GROWN_BY = 64 * 2**20  # bytes that are asked of the system at once
IN_LARGE_PAGES = 256 * 2**20  # bytes: the first that training asks for, and all of it where networks are small
LARGE_PAGE = 2 * 2**20  # bytes


def prepare_process(settings: TrainingSettings) -> None:
    """Everything that holds for the whole process, from here on."""
    # On many CPUs, arithmetic on numbers below 1e-38 takes a hundred times as long, and no image changes by them.
    if not torch.set_flush_denormal(settings.flush_denormals) and settings.flush_denormals:
        _left_out("flush_denormals: this processor does not flush numbers below 1e-38 to zero")
    if settings.keep_memory and not _keep_memory():
        _left_out("keep_memory: memory is not glibc's here, and is kept as it likes")


@contextlib.contextmanager
def threads(most: int | None) -> Iterator[None]:
    """Within the block PyTorch computes on at most so many CPU threads; None: on as many as the process has."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if most is None else min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def uses_bfloat16(settings: TrainingSettings, device: str) -> bool:
    """Whether losses are computed under autocast to bfloat16."""
    if settings.precision == "float32" or (settings.precision == "auto" and not device.startswith("cuda")):
        return False
    if not device.startswith("cuda") and not multiplies_bfloat16():
        _left_out("precision: bfloat16: this processor has no instructions for it (AVX512-BF16); float32 instead")
        return False
    return True


def uses_channels_last(settings: TrainingSettings, device: str, modules: Iterable[nn.Module]) -> bool:
    """Whether images and weights lie in memory with channels last: what the settings say, or else where that is faster.

    Convolutions are, on a GPU in bfloat16. On a CPU a layer or a network may lose more by it than they gain, and then
    says `channels_first_on_cpu`; all that train together lie alike.
    """
    if settings.channels_last is not None:
        return settings.channels_last
    if device.startswith("cuda"):
        return uses_bfloat16(settings, device)
    layers = (layer for module in modules for layer in module.modules())
    return not any(getattr(layer, "channels_first_on_cpu", False) for layer in layers)


def uses_compiler(settings: TrainingSettings, device: str) -> bool:
    """Whether networks, or whole turns, are to be compiled."""
    if not settings.compile:
        return False
    if device.startswith("cuda"):
        lacks = "" if importlib.util.find_spec("triton") is not None else "the package triton"
    elif not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        lacks = "a C++ compiler"
    else:
        headers = Path(sysconfig.get_path("include")) / "Python.h"
        lacks = "" if headers.exists() else f"Python's headers ({headers})"
    if lacks:
        _left_out(f"compile: torch.compile wants {lacks}, which is not here")
    return not lacks


@cache
def _keep_memory() -> bool:
    """Tell glibc to keep big blocks that are freed, for the next step, which asks for blocks of the same sizes.

    As it is, each of them is fetched from the system anew and handed over page by page, zeroed. And of small blocks, no
    list apart: whenever a big one is freed, glibc goes through all that are in it, at every step many times.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    wanted = {MMAP_MAX: 0, TRIM_THRESHOLD: KEPT_FREE, TOP_PAD: GROWN_BY, LARGEST_QUICK: 0}
    if not all(libc.mallopt(parameter, value) for parameter, value in wanted.items()):
        return False
    _ask_for_large_pages(libc)
    return True


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Have the system lay what is asked for next in pages of 2 MiB in place of 4 KiB, where it has such pages.

    A step goes through all weights, gradients and moments again and again, and a processor remembers where a few
    thousand pages are: in small ones it looks up every 4 KiB of them anew. Nothing is taken: the block is given back at
    once, untouched, and stays with the process as free memory (`KEPT_FREE`).
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if (block := libc.malloc(IN_LARGE_PAGES)) is None:
        return
    begin = -(-block // LARGE_PAGE) * LARGE_PAGE
    if libc.madvise(begin, (block + IN_LARGE_PAGES - begin) // LARGE_PAGE * LARGE_PAGE, mmap.MADV_HUGEPAGE):
        _left_out("keep_memory: this system has no pages of 2 MiB; memory is kept in small ones")
    libc.free(block)


@cache
def _left_out(what: str) -> None:
    """Once a process."""
    say(f"left out: training.{what}")
