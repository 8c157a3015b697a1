"""The states of all random generators that training draws from, as plain tensors and JSON values."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomStates:
    """Python's, NumPy's and torch's global generators, frozen at one moment.

    tensors: `torch`, and `cuda.<device index>` for each CUDA device in use, uint8. python, numpy: JSON values.
    """

    tensors: dict[str, Tensor]
    python: list[Any]
    numpy: dict[str, Any]

    @classmethod
    def capture(cls) -> RandomStates:
        tensors = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
        version, words, gauss = random.getstate()
        held = np.random.get_state(legacy=False)
        key = held["state"]["key"].tolist()
        return cls(tensors, [version, list(words), gauss], {**held, "state": {**held["state"], "key": key}})

    def restore(self) -> None:
        """Set every generator back. CUDA devices that this machine lacks are left out."""
        torch.set_rng_state(self.tensors["torch"])
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if f"cuda.{index}" in self.tensors:
                torch.cuda.set_rng_state(self.tensors[f"cuda.{index}"], index)
        version, words, gauss = self.python
        random.setstate((version, tuple(words), gauss))
        key = np.array(self.numpy["state"]["key"], np.uint32)
        np.random.set_state({**self.numpy, "state": {**self.numpy["state"], "key": key}})


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """However much the block draws, the generators stand afterwards as they stood before it."""
    before = RandomStates.capture()
    try:
        yield
    finally:
        before.restore()
