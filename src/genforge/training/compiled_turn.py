"""A player's whole turn as one program: its loss, the gradient, and the optimizer's step (`training.compile: turn`).

A step of a small network is hundreds of small operations, and takes as long as it takes to call them. Compiled, they
are a few loops: those from a gradient to the weight that it moves, Adam's too, are one. Random numbers are torch's own,
in the same order as without, so that both train alike to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genforge.contracts import Batch, Loss, Objective, Player
from genforge.settings import UserError
from genforge.training.optimization import OptimizerSettings, set_learning_rate
from genforge.training.turn import Part, Turn, TurnSettings

Program = Callable[..., Loss]


class CompiledTurn(Turn):
    """A turn that is one compiled program. Turns that are measured are like any other's, and so is the very first, when
    the optimizer remembers nothing.

    Raises:
        UserError: the optimizer is not Adam, batches are cut in parts, several processes train together, a weight has
            no gradient, or the loss does what no program can, such as to look at a number on its way.
    """

    def __init__(
        self, objective: Objective, player: Player, optimizer: OptimizerSettings, settings: TurnSettings
    ) -> None:
        super().__init__(objective, player, optimizer, settings)
        if optimizer.name not in ("adam", "adamw"):
            raise _refused(f"the optimizer is {optimizer.name}, and adam or adamw are compiled")
        if settings.peers.size > 1:
            raise _refused("several processes train together")
        self._decay = optimizer.weight_decay, optimizer.name == "adamw"
        self._betas, self._epsilon = optimizer.betas, optimizer.epsilon
        self._program: Program | None = None

    def take(self, parts: Sequence[Part], factor: float, measured: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        if len(parts) > 1:
            raise _refused("training.accumulation cuts batches in parts")
        memory = [self.optimizer.state.get(weight, {}) for weight in self.own]
        if measured or not any(memory):
            return super().take(parts, factor, measured)
        if not all(memory):
            raise _refused(f"some weights of {self.player.name} have no gradient")
        for weight in self.own:
            weight.grad = None
        rate = factor * self.learning_rate
        set_learning_rate(self.optimizer, rate)
        steps = [own["step"] for own in memory]
        torch._foreach_add_(steps, 1)
        moments = [own["exp_avg"] for own in memory], [own["exp_avg_sq"] for own in memory]
        loss = self._run(self._laid_out(parts[0].batch), self._numbers(rate, steps[0]), *moments)
        if loss.seen:
            self.objective.hear(self.player, loss.seen)
        self.objective.after_step(self.player)
        return loss.value, dict(loss.logs) or {f"{self.player.name}_loss": loss.value}

    def _numbers(self, rate: float, step: Tensor) -> Tensor:
        """The rate over Adam's first correction, the root of its second, and the rate: (3,) float32.

        A tensor, since a program is made for the values of numbers; and no part of the program, which would work them
        out anew for every weight. In double precision, since in single the first are off by a ten-thousandth.
        """
        first, second = self._betas
        if step.device.type == "cpu":
            made = step.item()
            return torch.tensor([rate / (1 - first**made), (1 - second**made) ** 0.5, rate], dtype=torch.float32)
        there = step.double()  # and stays there: nobody waits for a GPU
        return torch.stack([rate / (1 - first**there), (1 - second**there).sqrt(), 0 * there + rate]).float()

    def _run(self, batch: Batch, *rest: Tensor | list[Tensor]) -> Loss:
        import torch._dynamo as dynamo

        if self._program is None:
            dynamo.config.trace_autograd_ops = True  # `torch.autograd.grad` is a part of the program
            # Isolated: torch counts the programs of one piece of code and refuses the ninth, and a search's worker
            # makes some for every trial.
            kind: dict[str, Any] = {"fullgraph": True, "isolate_recompiles": True}
            self._program = torch.compile(self._step, options={"fallback_random": True}, **kind)
        try:
            return self._program(batch.images, batch.labels, *rest)
        except dynamo.exc.TorchDynamoException as error:
            told = str(error).strip().splitlines()[0]
            raise _refused(f"torch cannot make one program of the turn of {self.player.name} ({told})") from error

    def _step(
        self, images: Tensor, labels: Tensor | None, numbers: Tensor, means: list[Tensor], squares: list[Tensor]
    ) -> Loss:
        """What is compiled: the loss, and Adam's step along its gradient. numbers: see `_numbers`."""
        with self.precision:
            loss = self.objective.loss(self.player, Batch(images, labels))
        gradients: Sequence[Tensor] = torch.autograd.grad(loss.value, self.own)
        with torch.no_grad():
            if self.settings.clip_norm is not None:
                gradients = _clipped(gradients, self.settings.clip_norm)
            (first, second), (decay, apart) = self._betas, self._decay
            length, root, rate = numbers.unbind()
            for weight, gradient, mean, square in zip(self.own, gradients, means, squares, strict=True):
                if decay and apart:
                    weight.mul_(1 - rate * decay)
                slope = gradient + decay * weight if decay and not apart else gradient
                mean.lerp_(slope, 1 - first)
                square.mul_(second).addcmul_(slope, slope, value=1 - second)
                weight.sub_(length * mean / (square.sqrt() / root + self._epsilon))
        return Loss(loss.value.detach(), loss.logs, loss.seen)


def _clipped(gradients: Sequence[Tensor], longest: float) -> Sequence[Tensor]:
    """As `torch.nn.utils.clip_grad_norm_` does."""
    length = torch.stack([torch.linalg.vector_norm(each) for each in gradients]).norm()
    factor = (longest / (length + 1e-6)).clamp(max=1.0)
    return [each * factor for each in gradients]


def _refused(why: str) -> UserError:
    return UserError(f"training.compile is turn, but {why}; set training.compile to true or false")
