"""How a run fails: its losses or weights are no longer finite."""

from __future__ import annotations

from genforge.settings import UserError


class TrainingFailed(UserError):
    """A run whose losses or weights are not finite. Its checkpoints are all of steps before that.

    Attributes:
        step: how many steps were done when it was seen. player: whose loss or weights. value: nan, inf or -inf.
    """

    def __init__(self, title: str, step: int, player: str, what: str, value: float) -> None:
        self.step, self.player, self.value = step, player, value
        super().__init__(
            f"{title} failed at step {step}: {what} of player `{player}` is {value}, and no step can mend that; "
            f"lower its learning rate (training.optimizer.learning_rate, or training.players.{player}.learning_rate) "
            f"or set training.clip_norm"
        )
