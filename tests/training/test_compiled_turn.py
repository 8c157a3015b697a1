"""A whole turn as one program trains as one that is not compiled does, to rounding, and is resumed to the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_training import SHAPE, Denoise, Duel, ToyData, assert_same_bits, weights

from genforge.catalog import build_objective, resolve
from genforge.contracts import Batch, Loss, Objective, Player
from genforge.objectives.variational import Variational
from genforge.randomness import seed_everything
from genforge.settings import UserError
from genforge.training import compiled_turn
from genforge.training.acceleration import uses_compiler
from genforge.training.checkpoint import Checkpoints
from genforge.training.loop import train
from genforge.training.optimization import OptimizerSettings
from genforge.training.settings import TrainingSettings

# The tenth step and the twentieth are measured, and not compiled, and neither is the first.
SHORT = TrainingSettings(steps=20, batch_size=8, log_every=10, ema=0.9, warmup_steps=4, schedule="cosine")
COMPILES = uses_compiler(SHORT.model_copy(update={"compile": "turn"}), "cpu")
needs_a_compiler = pytest.mark.skipif(not COMPILES, reason="torch.compile wants a compiler and Python's headers")


def variational() -> Objective:
    """Coins, noise, and slopes that are written down."""
    changes = {
        "networks": {"encoder": {"widths": [16]}, "decoder": {"widths": [16]}},
        "objective": {"latent_size": 3},
    }
    return build_objective(resolve("vae-mlp", {"from": "vae-mlp", **changes}), SHAPE, 3)


class Plays(Duel):
    """Both in every step, and nobody takes notes."""

    def __init__(self) -> None:
        super().__init__(every=1)

    def loss(self, player: Player, batch: Batch) -> Loss:
        score = self.critic(self.exported(torch.randn_like(batch.images))).mean()
        value = score - self.critic(batch.images).mean() if player.name == "critic" else -score
        return Loss(value + self.critic(batch.images).square().mean() * 0.1)


def trained(
    build: Callable[[], Objective], checkpoints: Path | None = None, **settings: object
) -> tuple[dict[str, Tensor], dict[int, dict[str, float]]]:
    """Weights in the end, and what was logged but for the speed."""
    seed_everything(1)
    objective, logged = build(), dict[int, dict[str, float]]()
    kept = Checkpoints(checkpoints, warn=lambda text: None) if checkpoints else None

    def log(step: int, values: Mapping[str, float]) -> None:
        logged[step] = {name: value for name, value in values.items() if name != "images_per_second"}

    train(objective, ToyData(), SHORT.model_copy(update=settings), seed=1, log=log, checkpoints=kept)
    return weights(objective), logged


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The players whose turns were made into programs and run, a name a run."""
    ran, run = [], compiled_turn.CompiledTurn._run

    def counted(self: compiled_turn.CompiledTurn, *arguments: object) -> Loss:
        ran.append(self.player.name)
        return run(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compiled_turn.CompiledTurn, "_run", counted)
    return ran


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.parametrize(
    ("build", "optimizer", "clip_norm"),
    [
        (variational, OptimizerSettings(learning_rate=1e-2), None),
        (variational, OptimizerSettings(name="adamw", learning_rate=1e-2, weight_decay=0.1), 0.5),
        (Plays, OptimizerSettings(learning_rate=1e-2, weight_decay=0.1, betas=(0.5, 0.9)), None),
    ],
    ids=["variational", "clipped, weights decay apart", "two players, weights decay"],
)
def test_it_trains_as_one_that_is_not_compiled(
    build: Callable[[], Objective], optimizer: OptimizerSettings, clip_norm: float | None, programs: list[str]
) -> None:
    settings = {"optimizer": optimizer, "clip_norm": clip_norm}
    plain, plain_logs = trained(build, **settings)
    assert programs == []
    compiled, compiled_logs = trained(build, compile="turn", **settings)
    assert len(programs) >= 17 and set(programs) == {player.name for player in build().players}
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=2e-3, atol=2e-5, msg=name)
    assert compiled_logs.keys() == plain_logs.keys()
    for step, values in plain_logs.items():
        assert compiled_logs[step] == pytest.approx(values, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@needs_a_compiler
def test_it_is_resumed_to_the_same_bits(tmp_path: Path, programs: list[str]) -> None:
    straight, _ = trained(variational, compile="turn")

    class Stops(Exception):
        pass

    def stopped() -> Objective:
        objective = variational()
        assert isinstance(objective, Variational)
        after_step = objective.after_step

        def counting(player: Player) -> None:
            after_step(player)
            if objective.steps == 7:
                raise Stops

        objective.after_step = counting  # type: ignore[method-assign]
        return objective

    with pytest.raises(Stops):
        trained(stopped, tmp_path, compile="turn", checkpoint_every=3)
    programs.clear()
    resumed, _ = trained(variational, tmp_path, compile="turn", checkpoint_every=3)
    assert len(programs) == 12  # steps 7 to 19, but for the tenth
    assert_same_bits(resumed, straight)


@pytest.mark.slow
@needs_a_compiler
def test_a_process_may_train_as_often_as_it_likes(programs: list[str]) -> None:
    """A search's worker does, and torch makes no more than eight programs of one piece of code."""
    for _ in range(10):
        trained(variational, compile="turn", steps=3)
    assert len(programs) == 10


class Peeks(Denoise):
    """Looks at a number on its way, which no program can."""

    def loss(self, player: Player, batch: Batch) -> Loss:
        value = (self.exported(batch.images) - batch.images).square().mean()
        return Loss(value, {"loss": value.detach(), "seen": torch.tensor(float(value.item() > 0))})


class Leaves(Denoise):
    """Has a weight that its loss does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.exported.spare = torch.nn.Parameter(torch.zeros(3))

    def loss(self, player: Player, batch: Batch) -> Loss:
        return Loss((self.exported(batch.images) - batch.images).square().mean())


class Forgets(Leaves):
    """Knows it in the first step alone."""

    def loss(self, player: Player, batch: Batch) -> Loss:
        spare = self.exported.spare.square().sum() if not self.calls[1:] else 0.0
        return Loss((self.exported(batch.images) - batch.images).square().mean() + spare)

    def after_step(self, player: Player) -> None:
        self.calls.append("step")


@needs_a_compiler
@pytest.mark.parametrize(
    ("build", "settings", "why"),
    [
        (Peeks, {}, "cannot make one program of the turn of"),
        (Leaves, {}, "some weights of denoiser have no gradient"),
        (Forgets, {}, "cannot make one program of the turn of denoiser"),
        (Denoise, {"accumulation": 2}, "training.accumulation cuts batches in parts"),
        (Denoise, {"optimizer": OptimizerSettings(name="sgd")}, "the optimizer is sgd"),
    ],
)
def test_what_cannot_be_one_program_is_told(build: type[Objective], settings: dict[str, object], why: str) -> None:
    with pytest.raises(UserError, match=f"training.compile is turn, but .*{why}") as told:
        trained(build, compile="turn", **settings)
    assert str(told.value).endswith("set training.compile to true or false")


def test_without_a_compiler_it_is_left_out(monkeypatch: pytest.MonkeyPatch, programs: list[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    plain, _ = trained(Denoise)
    left_out, _ = trained(Denoise, compile="turn")
    assert_same_bits(left_out, plain)
    assert programs == []
