"""One player's turn: its loss on a batch, the gradient of its own weights alone, one step of its optimizer.

A batch may be cut into parts, one after the other in this process (accumulation) or side by side in several (`Peers`).
Where a part is computed changes nothing: each has its own random numbers and begins with the buffers (running means,
vectors of spectral norms) that all of them begin with; afterwards these are the mean of what the parts made of them.
What an objective goes by it hears as a mean over the parts too, and what it remembers of one part, that part finds
again. So two processes give, to rounding, what one gives that cuts the same batch in two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from genforge.contracts import Batch, Loss, Objective, Player
from genforge.parallel import ALONE, Peers
from genforge.training.optimization import OptimizerSettings, build_optimizer, make_step, set_learning_rate


@dataclass(frozen=True)
class TurnSettings:
    """What all players' turns have in common.

    clip_norm: longest gradient, or None. bfloat16: whether losses are computed under autocast. channels_last: whether
    images lie in memory as height, width, channels. peers: the processes that train together.
    """

    device: str
    clip_norm: float | None = None
    bfloat16: bool = False
    channels_last: bool = False
    peers: Peers = ALONE


@dataclass(frozen=True)
class Part:
    """A part of a turn's batch, and the seed of all that is random in its loss. None: it is the whole batch, and draws
    on from where the generators stand."""

    batch: Batch
    seed: int | None = None


class Turn:
    """A player with its optimizer. `own` and `others` are weights that learn: this player's, and those that stand still
    while it plays."""

    def __init__(
        self, objective: Objective, player: Player, optimizer: OptimizerSettings, settings: TurnSettings
    ) -> None:
        self.objective, self.player, self.settings = objective, player, settings
        self.learning_rate = optimizer.learning_rate
        self.own = [weight for weight in player.module.parameters() if weight.requires_grad]
        self.optimizer = build_optimizer(optimizer, self.own)
        shared = {id(weight) for weight in self.own}
        elsewhere = (other.module.parameters() for other in objective.players if other is not player)
        self.others = [
            weight for weights in elsewhere for weight in weights if weight.requires_grad and id(weight) not in shared
        ]
        kept = {id(weight) for network in objective.kept().values() for weight in network.parameters()}
        self.moves_kept = not kept.isdisjoint(shared)
        modules = [*(other.module for other in objective.players), *objective.kept().values()]
        self.buffers = list({id(buffer): buffer for module in modules for buffer in module.buffers()}.values())
        device_type = settings.device.partition(":")[0]
        self.precision = torch.autocast(device_type, torch.bfloat16, enabled=settings.bfloat16)

    def take(self, parts: Sequence[Part], factor: float, measured: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Follow the gradient of the mean loss on `parts`, and on those of the other processes, at `factor` times the
        learning rate.

        Returns:
            the loss and the scalars that the objective logs, all detached, the mean over the parts of this process;
            when `measured`, with the length of the gradient.
        """
        set_learning_rate(self.optimizer, factor * self.learning_rate)
        for weight in self.own:
            weight.grad = None
        for weight in self.others:
            weight.requires_grad_(False)
        try:
            loss = _mean(self._losses(parts))
        finally:
            for weight in self.others:
                weight.requires_grad_(True)
        gradients = [weight.grad for weight in self.own if weight.grad is not None]
        if len(parts) > 1:
            torch._foreach_div_(gradients, len(parts))
        self.settings.peers.mean_([*gradients, *loss.seen.values()])
        logs = loss.logs or {f"{self.player.name}_loss": loss.value}
        if self.settings.clip_norm is not None:
            length = clip_grad_norm_(self.own, self.settings.clip_norm).detach()
        elif measured:
            # In double precision, since the square of a finite number may not be finite in single.
            length = torch.stack(torch._foreach_norm(gradients, dtype=torch.float64)).norm()
        if measured:
            logs[f"{self.player.name}_gradient"] = length
        make_step(self.optimizer)
        if loss.seen:
            self.objective.hear(self.player, loss.seen)
        self.objective.after_step(self.player)
        return loss.value, logs

    def _losses(self, parts: Sequence[Part]) -> list[Loss]:
        """The loss of each part; the sum of their gradients is left in the weights."""
        if len(parts) == 1 and parts[0].seed is None:
            return [self._backward(parts[0].batch)]
        before = [buffer.clone() for buffer in self.buffers]
        after: list[list[Tensor]] = []
        losses = []
        for part in parts:
            assert part.seed is not None
            with _seeded(part.seed, self.settings.device):
                losses.append(self._backward(part.batch))
            after.append([buffer.clone() for buffer in self.buffers])
            _copy(self.buffers, before)
        _copy(self.buffers, [_middle(values) for values in zip(*after, strict=True)])
        self.settings.peers.mean_([buffer for buffer in self.buffers if buffer.is_floating_point()])
        return losses

    def _laid_out(self, batch: Batch) -> Batch:
        """The batch with its images in memory as the networks want them."""
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        images = batch.images.contiguous(memory_format=layout)
        return batch if images is batch.images else replace(batch, images=images)

    def _backward(self, batch: Batch) -> Loss:
        """The loss of a batch, its gradient added to what is there."""
        batch = self._laid_out(batch)
        with self.precision:
            loss = self.objective.loss(self.player, batch)
        loss.value.backward()
        return loss


@contextlib.contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Within the block torch draws from `seed`; after it, on from where it stood."""
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _copy(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def _middle(values: Sequence[Tensor]) -> Tensor:
    """The mean; of whole numbers, which count, the last."""
    return torch.stack(list(values)).mean(dim=0) if values[0].is_floating_point() else values[-1]


def _mean(losses: list[Loss]) -> Loss:
    """The mean over the parts of a batch of the loss and of all that stands beside it, detached."""
    if len(losses) == 1:
        (only,) = losses
        return Loss(only.value.detach(), only.logs, only.seen)
    return Loss(
        torch.stack([loss.value.detach() for loss in losses]).mean(),
        {name: torch.stack([loss.logs[name] for loss in losses]).mean() for name in losses[0].logs},
        {name: torch.stack([loss.seen[name] for loss in losses]).mean() for name in losses[0].seen},
    )
