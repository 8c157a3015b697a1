"""The losses of the steps since values were last logged, left on the device for as long as nobody asks.

Reading a number from a GPU waits until the GPU has done all that it was asked to, so a loop that reads its loss at
every step is slow. Here a step only keeps its scalars; they are read together, in one transfer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genforge.parallel import ALONE, Peers
from genforge.training.failure import TrainingFailed


class Window:
    """Attributes:
    values: what has been read of the window so far, by name. A run that is stopped inside a window and resumed logs
        the same mean as one that was not, because these are in its checkpoint.
    """

    def __init__(self) -> None:
        self._turns: list[tuple[int, str, Tensor, dict[str, Tensor]]] = []
        self.values: dict[str, list[float]] = {}

    def add(self, step: int, player: str, loss: Tensor, logs: dict[str, Tensor]) -> None:
        """Keep the scalars, all detached, of a player's turn in step number `step` (from 1)."""
        self._turns.append((step, player, loss, logs))

    def read(self, title: str, peers: Peers = ALONE) -> None:
        """Bring what was kept from the device to `values`, as the mean over `peers`. A turn without logs logs its loss.

        Raises:
            TrainingFailed: some value is not finite; names the first step and player.
        """
        turns, self._turns = self._turns, []
        numbers = iter(_read([value for _, _, loss, logs in turns for value in (loss, *logs.values())], peers))
        for step, player, _, logs in turns:
            loss = _finite(next(numbers), title, step, player, "the loss")
            if not logs:
                self.values.setdefault(f"{player}_loss", []).append(loss)
            for name in logs:
                self.values.setdefault(name, []).append(_finite(next(numbers), title, step, player, f"`{name}`"))

    def close(self) -> dict[str, float]:
        """The mean of each value that was read, and a new window begins."""
        values, self.values = self.values, {}
        return {name: math.fsum(of_turns) / len(of_turns) for name, of_turns in values.items()}

    def restore(self, values: Mapping[str, list[float]]) -> None:
        """Stand where a window stood of which these values had been read."""
        self._turns, self.values = [], {name: list(of_turns) for name, of_turns in values.items()}


def _read(scalars: list[Tensor], peers: Peers) -> list[float]:
    """All scalars in one transfer from their device."""
    if not scalars:
        return []
    values = torch.stack([scalar if scalar.dtype == torch.float32 else scalar.float() for scalar in scalars])
    peers.mean_([values])
    return values.tolist()


def _finite(value: float, title: str, step: int, player: str, what: str) -> float:
    if not math.isfinite(value):
        raise TrainingFailed(title, step, player, what, value)
    return value
