"""What is not finite goes back to the last checkpoint and on with a smaller step; and fails only when that is of no
use."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_training import Denoise, Duel, ToyData, ToyObjective, assert_same_bits, weights

from genforge.contracts import Batch, Loss, Network, Player
from genforge.randomness import seed_everything
from genforge.training.checkpoint import Checkpoints
from genforge.training.environment import environment
from genforge.training.failure import Rollback, TrainingFailed
from genforge.training.history import History, Log
from genforge.training.loop import Trained, train
from genforge.training.optimization import OptimizerSettings
from genforge.training.settings import TrainingSettings
from genforge.training.state import RunState
from genforge.training.termination import Terminated
from genforge.training.turn import Part, Turn, TurnSettings
from tests.disasters import REACHED, strike

SHORT = TrainingSettings(steps=23, batch_size=8, checkpoint_every=5, log_every=4, ema=0.9)


class Steep(ToyObjective):
    """Half a squared distance, of curvature 1 at first and much more from step 13 on.

    Gradient descent at the rate r multiplies the distance by |1 - curvature * r| in each step. With r = 0.1 and a
    curvature of 39 that is 2.9, and the power of 3 that makes the loss steeper still soon makes it infinite. With half
    the rate it is 0.95, and all is well.
    """

    def __init__(self, curvature: float = 39.0, steep_from: int = 13) -> None:
        self.network = Denoise().exported
        self.exported: Network = self.network
        self.players = [Player("only", self.network)]
        self.curvature, self.steep_from = curvature, steep_from
        self.step = torch.zeros((), dtype=torch.int64)

    def state(self) -> dict[str, Tensor]:
        return {"step": self.step}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.step = state["step"]

    def loss(self, player: Player, batch: Batch) -> Loss:
        self.step = self.step + 1
        squared = torch.stack([weight.square().sum() for weight in self.network.parameters()]).sum()
        value = 0.5 * (self.curvature if self.step >= self.steep_from else 1.0) * squared
        return Loss(value + (value / 3e3) ** 3, {"loss": value.detach()})


STEEP = SHORT.model_copy(
    update={
        "steps": 30,
        "log_every": 2,
        "checkpoint_every": 10,
        "optimizer": OptimizerSettings(name="sgd", learning_rate=0.1, betas=(0.0, 0.0)),
    }
)
# The distance passes the checkpoint of step 20 on its way to infinity: a first return to that step is in vain.
CREEPING = STEEP.model_copy(update={"checkpoint_every": 5})


class Poisoned(Duel):
    """The generator's loss is not finite at one step, whatever its step's length."""

    def __init__(self, bad: float = math.nan) -> None:
        super().__init__(every=5)
        self.bad = bad

    def loss(self, player: Player, batch: Batch) -> Loss:
        loss = super().loss(player, batch)
        # The data set's position says where in the run this is, also after a rollback.
        return Loss(loss.value * self.bad) if player.name == "generator" and self.place == 17 else loss

    place = 0


class Places(ToyData):
    def __init__(self, objective: Poisoned) -> None:
        super().__init__()
        self.objective = objective

    def batch(self, turn: int, size: int) -> Batch:
        self.objective.place = turn  # of the generator: 5, 11, 17, 23
        return super().batch(turn, size)


def run(
    folder: Path,
    settings: TrainingSettings = STEEP,
    curvature: float = 39.0,
    warnings: list[str] | None = None,
    log: Log | None = None,
    data: ToyData | None = None,
) -> Trained:
    seed_everything(1)
    checkpoints = Checkpoints(folder, warn=(warnings if warnings is not None else []).append)
    return train(Steep(curvature), data or ToyData(), settings, checkpoints=checkpoints, log=log)


def test_a_step_that_was_too_long_is_shortened_and_the_run_ends_well(tmp_path: Path) -> None:
    warnings: list[str] = []
    logged: list[int] = []
    trained = run(tmp_path, warnings=warnings, log=lambda step, values: logged.append(step))
    (rollback,) = trained.rollbacks
    assert (rollback.back_to, rollback.factor) == (10, 0.5)
    assert trained.steps == 30 and all(torch.isfinite(weight).all() for weight in trained.network.parameters())
    (warning,) = warnings
    assert rollback.reason in warning and "player `only`" in warning and "rollback 1 of 2" in warning

    rows = trained.history.rows
    assert list(rows) == list(range(2, 31, 2)) == logged, "each step once, for the history and for the tracker"
    assert ["rollbacks" in values for values in rows.values()] == [False] * 5 + [True] * 10
    gentle = [values["loss"] for step, values in rows.items() if step > 12]
    assert gentle[1:] == sorted(gentle[1:], reverse=True), "what the failed attempt had logged is gone"


def test_the_retry_is_the_run_that_goes_on_from_that_checkpoint_with_half_the_learning_rate(tmp_path: Path) -> None:
    trained = run(tmp_path / "failing")
    run(tmp_path / "halved", STEEP.model_copy(update={"steps": 10}))
    halved = STEEP.optimizer.model_copy(update={"learning_rate": 0.05})
    straight = run(tmp_path / "halved", STEEP.model_copy(update={"optimizer": halved}))
    assert straight.rollbacks == []
    expected = {step: values["loss"] for step, values in straight.history.rows.items()}
    assert {step: values["loss"] for step, values in trained.history.rows.items()} == expected
    assert_same_bits(dict(trained.network.state_dict()), dict(straight.network.state_dict()))


def test_a_return_in_vain_is_followed_by_one_to_the_checkpoint_before(tmp_path: Path) -> None:
    trained = run(tmp_path, CREEPING, curvature=30.0)
    assert [(rollback.back_to, rollback.factor) for rollback in trained.rollbacks] == [(20, 0.5), (15, 0.25)]
    assert trained.history.rows[30]["loss"] < 1e-6


class Stopped(Exception):
    pass


class Stopping(ToyData):
    """Ends the run in the middle of its `stop`-th step: as a kill does, or with SIGTERM, which it may outlive."""

    def __init__(self, stop: int, politely: bool) -> None:
        super().__init__()
        self.stop, self.politely = stop, politely

    def batch(self, turn: int, size: int) -> Batch:
        self.stop -= 1
        if self.stop == 0:
            if not self.politely:
                raise Stopped
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(turn, size)


@pytest.mark.parametrize("politely", [False, True], ids=["killed", "terminated"])
@pytest.mark.parametrize("settings, curvature", [(STEEP, 39.0), (CREEPING, 30.0)], ids=["steep", "creeping"])
def test_whenever_it_was_stopped_a_run_that_falls_back_ends_with_the_same_bits(
    tmp_path: Path, settings: TrainingSettings, curvature: float, politely: bool
) -> None:
    straight = run(tmp_path / "straight", settings, curvature)
    straight.history.write_csv(tmp_path / "straight.csv")
    steps = 20 + 20 if settings is STEEP else 22 + 2 + 15
    for stop in range(2, steps + 1, 5):
        folder = tmp_path / str(stop)
        with pytest.raises((Stopped, Terminated)):
            run(folder, settings, curvature, data=Stopping(stop, politely))
        resumed = run(folder, settings, curvature)
        assert resumed.rollbacks == straight.rollbacks, stop
        assert_same_bits(dict(straight.network.state_dict()), dict(resumed.network.state_dict()))
        resumed.history.write_csv(tmp_path / "resumed.csv")
        assert (tmp_path / "straight.csv").read_bytes() == (tmp_path / "resumed.csv").read_bytes(), stop


def test_killed_at_any_write_a_run_that_falls_back_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Among them are those of the checkpoints that rollbacks begin with."""
    straight = run(tmp_path / "straight", CREEPING, 30.0)
    for number in range(4, 400, 11):
        folder = tmp_path / str(number)
        status = strike("kill", number, folder, lambda folder=folder: run(folder, CREEPING, 30.0))  # type: ignore[misc]
        resumed = run(folder, CREEPING, 30.0)
        assert (resumed.rollbacks, resumed.history.rows) == (straight.rollbacks, straight.history.rows), number
        assert_same_bits(dict(straight.network.state_dict()), dict(resumed.network.state_dict()))
        if status == REACHED:
            break
    assert status == REACHED and number > 40


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_smaller_steps_do_not_help_fails_with_the_reason_and_what_was_tried(tmp_path: Path, bad: float) -> None:
    duel = Poisoned(bad)
    checkpoints = Checkpoints(tmp_path, warn=lambda text: None)
    with pytest.raises(TrainingFailed, match="failed at step 15: the loss of player `generator` is") as failure:
        train(duel, Places(duel), SHORT.model_copy(update={"log_every": 100}), checkpoints=checkpoints)
    assert (failure.value.step, failure.value.player) == (15, "generator")
    assert not math.isfinite(failure.value.value)
    reason = failure.value.reason
    assert failure.value.rollbacks == (Rollback(reason, 10, 0.5), Rollback(reason, 5, 0.25))
    assert str(failure.value).count("tried: at step 15 the loss of player `generator`") == 2
    assert checkpoints.steps() == [10, 5], "what is not finite is never checkpointed"


def test_a_run_that_failed_fails_again_without_trying_all_again(tmp_path: Path) -> None:
    duel = Poisoned()
    checkpoints = Checkpoints(tmp_path, warn=lambda text: None)
    for _ in range(2):
        with pytest.raises(TrainingFailed) as failure:
            train(duel, Places(duel), SHORT, checkpoints=checkpoints)
    assert len(failure.value.rollbacks) == 2


def test_before_the_first_interval_is_over_a_run_goes_back_to_its_beginning(tmp_path: Path) -> None:
    seed_everything(1)
    trained = train(Steep(steep_from=1), ToyData(), STEEP, checkpoints=Checkpoints(tmp_path, warn=lambda text: None))
    assert [rollback.back_to for rollback in trained.rollbacks] == [0]


@pytest.mark.parametrize("kept", [True, False])
def test_without_rollbacks_or_checkpoints_a_run_fails_at_once(tmp_path: Path, kept: bool) -> None:
    settings = STEEP.model_copy(update={"rollbacks": 0}) if kept else STEEP
    seed_everything(1)
    with pytest.raises(TrainingFailed) as failure:
        train(Steep(), ToyData(), settings, checkpoints=Checkpoints(tmp_path) if kept else None)
    assert failure.value.rollbacks == ()


def test_a_memory_that_overflowed_is_never_checkpointed(tmp_path: Path) -> None:
    """Adam squares the gradient: 1e30 squared is infinite, the step that follows is 0, and the loss looks well."""

    class Huge(Denoise):
        def loss(self, player: Player, batch: Batch) -> Loss:
            loss = super().loss(player, batch)
            return Loss(loss.value * 1e30, {"quiet": loss.value.detach()})

    with pytest.raises(TrainingFailed, match="a value in the optimizer's memory of player `denoiser` is inf"):
        train(Huge(), ToyData(), SHORT, checkpoints=Checkpoints(tmp_path, warn=lambda text: None))
    assert weights(Huge()) and Checkpoints(tmp_path).steps() == [0]


@pytest.mark.parametrize("value", [1e30, math.inf, math.nan])
def test_a_weight_whose_square_overflows_is_large_and_no_failure(value: float) -> None:
    objective = Denoise()
    state = RunState(objective, [], 0.0, History(), environment("cpu"))
    with torch.no_grad():
        next(iter(objective.exported.parameters())).view(-1)[0] = value
    with contextlib.nullcontext() if math.isfinite(value) else pytest.raises(TrainingFailed, match=f"is {value}"):
        state.check_finite("training")


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_everything_in_every_optimizer_s_memory_is_looked_at(name: str) -> None:
    objective, settings = Denoise(), OptimizerSettings(name=name, betas=(0.9, 0.99))  # type: ignore[arg-type]
    turn = Turn(objective, objective.players[0], settings, TurnSettings("cpu"))
    state = RunState(objective, [turn], 0.0, History(), environment("cpu"))
    turn.take([Part(ToyData().batch(0, 8))], 1.0)
    state.check_memory("training")
    memories = [value for memory in turn.optimizer.state.values() for value in memory.values()]
    assert len(memories) >= len(list(objective.exported.parameters()))
    for value in memories:
        kept = value.clone()
        value.view(-1)[0] = math.inf
        with pytest.raises(TrainingFailed, match="a value in the optimizer's memory of player `denoiser` is inf"):
            state.check_memory("training")
        value.copy_(kept)
