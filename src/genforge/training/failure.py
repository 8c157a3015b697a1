"""How a run fails: its losses, weights or optimizers are no longer finite. And what was tried before it gave up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genforge.settings import UserError


@dataclass(frozen=True)
class Rollback:
    """One return to a checkpoint, with a smaller step from there.

    reason: which value of which player was not finite, and at which step. back_to: the checkpoint's step. factor: what
    the learning rate has been multiplied by since.
    """

    reason: str
    back_to: int
    factor: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.reason}: back to step {self.back_to}, on with {self.factor:g} times the learning rate"


class TrainingFailed(UserError):
    """A run that is not finite. Its checkpoints are all of steps before that.

    Attributes:
        step: how many steps were done when it was seen. player: whose value. value: nan, inf or -inf.
        reason: these in words. rollbacks: what was tried in vain.
    """

    def __init__(
        self, title: str, step: int, player: str, what: str, value: float, rollbacks: Sequence[Rollback] = ()
    ) -> None:
        self.title, self.step, self.player, self.what, self.value = title, step, player, what, value
        self.rollbacks = tuple(rollbacks)
        self.reason = f"at step {step} {what} of player `{player}` was {value}"
        tried = "".join(f"\n  tried: {rollback}" for rollback in self.rollbacks)
        super().__init__(
            f"{title} failed at step {step}: {what} of player `{player}` is {value}, and no step can mend that; "
            f"lower its learning rate (training.optimizer.learning_rate, or training.players.{player}.learning_rate) "
            f"or set training.clip_norm{tried}"
        )

    def after(self, rollbacks: Sequence[Rollback]) -> TrainingFailed:
        """The same failure, of a run that had been rolled back."""
        return TrainingFailed(self.title, self.step, self.player, self.what, self.value, rollbacks)
