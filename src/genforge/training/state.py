"""Everything of a run that changes while it trains, and how it is frozen and brought back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from genforge.contracts import PART, Objective
from genforge.parallel import ALONE, Peers
from genforge.settings import UserError
from genforge.training.checkpoint import Snapshot
from genforge.training.environment import Environment, differences
from genforge.training.failure import Rollback, TrainingFailed
from genforge.training.history import History
from genforge.training.optimization import WeightAverage, optimizer_tensors, restore_optimizer
from genforge.training.power_averages import PowerAverages, PowerAverageSettings
from genforge.training.random_states import RandomStates
from genforge.training.turn import Turn
from genforge.training.window import Window


class RunState:
    """Where a run stands.

    Attributes:
        step: steps done. turn: turns taken by all players together, which is the position in the data.
        observed: observations made. seconds: of training, those before a stop included.
        kept: the exported network and its companions. average: of their weights, or None when there is none.
        powers: averages of them whose length is chosen later, or None.
        window: losses since values were last logged. history: what was logged and observed.
        rollbacks: returns to a checkpoint. environments: in which the run has been, the present one last: one alone
            means that its bits are those of a run that was never stopped.
        peers: the processes that this run is made by.
    """

    def __init__(
        self,
        objective: Objective,
        turns: Sequence[Turn],
        ema: float,
        history: History,
        environment: Environment,
        averages: PowerAverageSettings | None = None,
        averages_folder: Path | None = None,
        peers: Peers = ALONE,
    ) -> None:
        self.objective, self.turns, self.peers = objective, turns, peers
        self.step = self.turn = self.observed = 0
        self.seconds = 0.0
        moves = any(turn.moves_kept for turn in turns)
        self.kept = nn.ModuleList(objective.kept().values())
        self.average = WeightAverage(self.kept, ema) if ema > 0 and moves else None
        followed = averages is not None and averages.snapshots > 0 and moves
        self.powers = PowerAverages(self.kept, averages, averages_folder) if followed and averages else None
        self.window, self.history = Window(), history
        self.rollbacks: list[Rollback] = []
        self.environments = [environment]

    @property
    def step_size(self) -> float:
        """What rollbacks have left of the learning rate."""
        return self.rollbacks[-1].factor if self.rollbacks else 1.0

    def parts(self) -> dict[str, Tensor]:
        """What is remembered of those parts of every batch that this process computes: other processes know of others,
        and the snapshot of the run wants them all."""
        remembered = _over("objective.", self.objective.state())
        return {name: tensor for name, tensor in remembered.items() if name.startswith(f"objective.{PART}")}

    def snapshot(self) -> Snapshot:
        """The run as it is now, as far as this process knows. Tensors on the CPU are not copied: write it before the
        next step."""
        random_states = RandomStates.capture()
        tensors = {
            **self._placed(),
            **self._optimizers(),
            **_over("random.", random_states.tensors),
            **_over("history.", self.history.tensors()),
            **_over("objective.", self.objective.state()),
        }
        state = {
            "turn": self.turn,
            "observed": self.observed,
            "seconds": self.seconds,
            "average_updates": 0 if self.average is None else self.average.updates,
            "power_updates": 0 if self.powers is None else self.powers.updates,
            "python": random_states.python,
            "numpy": random_states.numpy,
            "window": self.window.values,
            "columns": self.history.columns,
            "rollbacks": [rollback.to_json() for rollback in self.rollbacks],
            "environments": self.environments,
        }
        return Snapshot(self.step, tensors, state, len(self.rollbacks))

    @torch.no_grad()
    def restore(self, snapshot: Snapshot, warn: Callable[[str], None]) -> None:
        """Bring back what `snapshot` froze, in a run of the same objective and settings.

        Args:
            warn: is told when the run was in another environment then.

        Raises:
            UserError: it is of other networks.
        """
        state, tensors = snapshot.state, snapshot.tensors
        for name, place in self._placed().items():
            saved = tensors.get(name)
            if saved is None or saved.shape != place.shape:
                found = "nothing" if saved is None else f"shape {tuple(saved.shape)}"
                raise UserError(
                    f"the checkpoint has {found} for {name}, which has shape {tuple(place.shape)} in this run"
                )
            place.copy_(saved)
        for turn in self.turns:
            restore_optimizer(turn.optimizer, _under(f"optimizer.{turn.player.name}.", tensors))
        if self.average is not None:
            self.average.updates = state["average_updates"]
        if self.powers is not None:
            self.powers.updates = state["power_updates"]
        self.objective.load_state(_under("objective.", tensors))
        self.step, self.turn, self.observed = snapshot.step, state["turn"], state["observed"]
        self.seconds = state["seconds"]
        self.window.restore(state["window"])
        self.rollbacks = [Rollback(**rollback) for rollback in state["rollbacks"]]
        self._enter(state["environments"], warn)
        self.history.restore(state["columns"], _under("history.", tensors))
        RandomStates(_under("random.", tensors), state["python"], state["numpy"]).restore()

    def check_finite(self, title: str) -> None:
        """Read the losses, and look at the weights.

        Raises:
            TrainingFailed: something is not finite; names the player, or `exported`.
        """
        self.window.read(title, self.peers)
        seen: set[int] = set()
        for owner, module in self._modules().items():
            own = [weight for weight in module.parameters() if id(weight) not in seen]
            seen |= {id(weight) for weight in own}
            self._check(title, owner, "a weight", own)

    def check_memory(self, title: str) -> None:
        """Look at what optimizers and the average remember: with an infinite square in Adam's memory a weight would
        stand still for ever, and its loss would look well."""
        for turn in self.turns:
            remembered = [value for value in optimizer_tensors(turn.optimizer).values() if value.is_floating_point()]
            self._check(title, turn.player.name, "a value in the optimizer's memory", remembered)
        averages = [] if self.average is None else list(self.average.averages)
        powers = [] if self.powers is None else [tensor for own in self.powers.averages.values() for tensor in own]
        self._check(title, "exported", "an averaged weight", averages + powers)

    def _check(self, title: str, owner: str, what: str, tensors: Sequence[Tensor]) -> None:
        on_device: dict[torch.device, list[Tensor]] = {}  # some optimizers count their steps on the CPU
        for tensor in tensors:
            if tensor.numel():
                on_device.setdefault(tensor.device, []).append(tensor.detach())
        for detached in on_device.values():
            # The length tells as much in a fiftieth of the time; but the square of a finite number may not be finite.
            for order in (2.0, float("inf")):
                largest = torch.stack(torch._foreach_norm(detached, order)).max().item()  # NaN wins a maximum
                if math.isfinite(largest):
                    break
            else:
                raise TrainingFailed(title, self.step, owner, what, largest)

    def _enter(self, environments: Sequence[Environment], warn: Callable[[str], None]) -> None:
        """Be in this process's environment, after those that the checkpoint tells of."""
        now = self.environments[-1]
        self.environments = [dict(environment) for environment in environments]
        if differing := differences(self.environments[-1], now):
            warn(
                f"the checkpoint of step {self.step} was written under other conditions ({differing}); training goes "
                f"on, no worse for it, but its last bits are not those of a run that was never stopped"
            )
            self.environments.append(now)

    def _modules(self) -> dict[str, nn.Module]:
        companions = {f"companion.{role}": self.objective.networks[role] for role in self.objective.companions()}
        players = {turn.player.name: turn.player.module for turn in self.turns}
        return {**players, "exported": self.objective.exported, **companions}

    def _networks(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each player's networks, and those that no player has of what is kept; none twice."""
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
            **{
                f"power.{length:g}.{number}": average
                for length, own in ({} if self.powers is None else self.powers.averages).items()
                for number, average in enumerate(own)
            },
        }

    def _optimizers(self) -> dict[str, Tensor]:
        return {
            f"optimizer.{turn.player.name}.{key}": tensor
            for turn in self.turns
            for key, tensor in optimizer_tensors(turn.optimizer).items()
        }


def _over(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
