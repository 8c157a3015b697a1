"""The losses of the steps since someone last looked, left on the device.

Reading a number from a GPU waits until the GPU has done all that it was asked to, so a loop that reads its loss at
every step is slow. Here a step only keeps its scalars; they are read together, in one transfer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genforge.training.failure import TrainingFailed


class Window:
    def __init__(self) -> None:
        self._turns: list[tuple[int, str, Tensor, dict[str, Tensor]]] = []

    def add(self, step: int, player: str, loss: Tensor, logs: dict[str, Tensor]) -> None:
        """Keep the scalars, all detached, of a player's turn in step number `step` (from 1)."""
        self._turns.append((step, player, loss, logs))

    def read(self, title: str) -> dict[str, float]:
        """The mean of each logged value over the window, which begins anew. A turn without logs logs its loss.

        Raises:
            TrainingFailed: some value is not finite; names the first step and player.
        """
        if not self._turns:
            return {}
        values = iter(_read([value for _, _, loss, logs in self._turns for value in (loss, *logs.values())]))
        logged: dict[str, list[float]] = {}
        for step, player, _, logs in self._turns:
            loss = _finite(next(values), title, step, player, "the loss")
            if not logs:
                logged.setdefault(f"{player}_loss", []).append(loss)
            for name in logs:
                logged.setdefault(name, []).append(_finite(next(values), title, step, player, f"`{name}`"))
        self._turns = []
        return {name: math.fsum(of_turns) / len(of_turns) for name, of_turns in logged.items()}


def _read(scalars: list[Tensor]) -> list[float]:
    """All scalars in one transfer from their device."""
    return torch.stack([scalar if scalar.dtype == torch.float32 else scalar.float() for scalar in scalars]).tolist()


def _finite(value: float, title: str, step: int, player: str, what: str) -> float:
    if not math.isfinite(value):
        raise TrainingFailed(title, step, player, what, value)
    return value
