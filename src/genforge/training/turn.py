"""One player's turn: its loss on a batch, the gradient of its own weights alone, one step of its optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from genforge.contracts import Batch, Loss, Objective, Player
from genforge.training.optimization import OptimizerSettings, build_optimizer, set_learning_rate


@dataclass(frozen=True)
class TurnSettings:
    """What all players' turns have in common.

    accumulation: parts that a batch is cut into. clip_norm: longest gradient, or None. bfloat16: whether losses are
    computed under autocast. channels_last: whether images lie in memory as height, width, channels.
    """

    device: str
    accumulation: int = 1
    clip_norm: float | None = None
    bfloat16: bool = False
    channels_last: bool = False


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
        exported = {id(weight) for weight in objective.exported.parameters()}
        self.moves_exported = not exported.isdisjoint(shared)

    def take(self, batch: Batch, factor: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Follow the gradient of the loss on `batch`, at `factor` times the learning rate.

        Returns:
            the loss and the scalars that the objective logs, with the length of the gradient, all detached.
        """
        set_learning_rate(self.optimizer, factor * self.learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        for weight in self.others:
            weight.requires_grad_(False)
        try:
            loss, logs = _mean([self._backward(part) for part in self._parts(batch)])
        finally:
            for weight in self.others:
                weight.requires_grad_(True)
        logs = logs or {f"{self.player.name}_loss": loss}
        logs[f"{self.player.name}_gradient"] = self._gradient()
        self.optimizer.step()
        self.objective.after_step(self.player)
        return loss, logs

    def _gradient(self) -> Tensor:
        """The length of the gradient; it is cut afterwards where that is asked for."""
        if self.settings.clip_norm is not None:
            return clip_grad_norm_(self.own, self.settings.clip_norm).detach()
        gradients = [weight.grad.detach() for weight in self.own if weight.grad is not None]
        # In double precision, since the square of a finite number may not be finite in single.
        return torch.stack(torch._foreach_norm(gradients, dtype=torch.float64)).norm()

    def _backward(self, part: Batch) -> Loss:
        """The loss of one part of the batch, its gradient added to what the parts before it left."""
        if self.settings.bfloat16:
            with torch.autocast(self.settings.device.partition(":")[0], torch.bfloat16):
                loss = self.objective.loss(self.player, part)
        else:
            loss = self.objective.loss(self.player, part)
        (loss.value / self.settings.accumulation if self.settings.accumulation > 1 else loss.value).backward()
        return loss

    def _parts(self, batch: Batch) -> list[Batch]:
        images, labels = batch.images, batch.labels
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        count = self.settings.accumulation
        if count == 1:
            return [Batch(images, labels)]
        of_labels = [None] * count if labels is None else labels.chunk(count)
        return [Batch(*part) for part in zip(images.chunk(count), of_labels, strict=True)]


def _mean(losses: list[Loss]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean over the parts of a batch of the loss and of what is logged beside it, detached."""
    if len(losses) == 1:
        return losses[0].value.detach(), losses[0].logs
    value = torch.stack([loss.value.detach() for loss in losses]).mean()
    return value, {name: torch.stack([loss.logs[name] for loss in losses]).mean() for name in losses[0].logs}
