"""What the bits of a run depend on beside its inputs: versions, the device, the number of threads and of
processes.

With the same of these a run on a CPU gives the same bits. With others it gives other last digits and is no worse, so a
run that is resumed under others goes on; but it says so, and is never taken for a reproducible one.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

import numpy as np
import torch

Environment = dict[str, str]


def environment(device: str, processes: int = 1) -> Environment:
    """Of this process, for a run on `device` (`cpu`, `cuda` or `cuda:<index>`) by so many processes together."""
    on_gpu = device.startswith("cuda")
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        **({"processes": str(processes)} if processes > 1 else {}),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, in words, such as `torch 2.12.0 is now 2.13.0, threads 8 is now 4`; empty when nothing does."""
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key, 'unknown')} is now {now.get(key, 'unknown')}" for key in keys)
