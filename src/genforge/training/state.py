"""Everything of a run that changes while it trains, and how it is frozen and brought back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from genforge.contracts import Objective
from genforge.settings import UserError
from genforge.training.checkpoint import Snapshot
from genforge.training.failure import TrainingFailed
from genforge.training.optimization import WeightAverage, optimizer_tensors, restore_optimizer
from genforge.training.random_states import RandomStates
from genforge.training.turn import Turn


class RunState:
    """Where a run stands.

    Attributes:
        step: steps done. turn: turns taken by all players together, which is the position in the data.
        observed: observations made. seconds: of training, those before a stop included.
        average: of the exported network's weights, or None when there is none.
    """

    def __init__(self, objective: Objective, turns: Sequence[Turn], ema: float) -> None:
        self.objective, self.turns = objective, turns
        self.step = self.turn = self.observed = 0
        self.seconds = 0.0
        averaged = ema > 0 and any(turn.moves_exported for turn in turns)
        self.average = WeightAverage(objective.exported, ema) if averaged else None

    def snapshot(self) -> Snapshot:
        """The run as it is now. Tensors on the CPU are not copied: write it before the next step."""
        random_states = RandomStates.capture()
        tensors = {
            **self._placed(),
            **{f"random.{name}": tensor for name, tensor in random_states.tensors.items()},
            **{
                f"optimizer.{turn.player.name}.{key}": tensor
                for turn in self.turns
                for key, tensor in optimizer_tensors(turn.optimizer).items()
            },
        }
        state = {
            "turn": self.turn,
            "observed": self.observed,
            "seconds": self.seconds,
            "average_updates": 0 if self.average is None else self.average.updates,
            "python": random_states.python,
            "numpy": random_states.numpy,
        }
        return Snapshot(self.step, tensors, state)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Bring back what `snapshot` froze, in a run of the same objective and settings.

        Raises:
            UserError: it is of other networks.
        """
        state = snapshot.state
        for name, place in self._placed().items():
            saved = snapshot.tensors.get(name)
            if saved is None or saved.shape != place.shape:
                found = "nothing" if saved is None else f"shape {tuple(saved.shape)}"
                raise UserError(
                    f"the checkpoint has {found} for {name}, which has shape {tuple(place.shape)} in this run"
                )
            place.copy_(saved)
        for turn in self.turns:
            restore_optimizer(turn.optimizer, _under(f"optimizer.{turn.player.name}.", snapshot.tensors))
        if self.average is not None:
            self.average.updates = state["average_updates"]
        self.step, self.turn, self.observed = snapshot.step, state["turn"], state["observed"]
        self.seconds = state["seconds"]
        RandomStates(_under("random.", snapshot.tensors), state["python"], state["numpy"]).restore()

    def check_finite(self, title: str) -> None:
        """Raises TrainingFailed when some weight is not finite; names the player, or `exported`."""
        for owner, module in self._modules().items():
            weights: list[Tensor] = [weight.detach() for weight in module.parameters() if weight.numel()]
            if not weights:
                continue
            largest = torch.stack(torch._foreach_norm(weights, float("inf"))).max().item()  # NaN wins a maximum
            if not math.isfinite(largest):
                raise TrainingFailed(title, self.step, owner, "a weight", largest)

    def _modules(self) -> dict[str, nn.Module]:
        return {turn.player.name: turn.player.module for turn in self.turns} | {"exported": self.objective.exported}

    def _networks(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each player's networks, and those of the exported one that no player has; none twice."""
        seen: set[int] = set()
        networks: dict[str, dict[str, Tensor]] = {}
        for owner, module in self._modules().items():
            own = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if id(tensor) not in seen}
            seen |= {id(tensor) for tensor in own.values()}
            networks[owner] = {name: tensor.detach() for name, tensor in own.items()}
        return networks

    def _placed(self) -> dict[str, Tensor]:
        """Tensors that stay where they are while their values change: a snapshot's are copied into them."""
        averages = [] if self.average is None else self.average.averages
        return {
            **{
                f"network.{owner}.{key}": value for owner, own in self._networks().items() for key, value in own.items()
            },
            **{f"average.{number}": average for number, average in enumerate(averages)},
        }


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
