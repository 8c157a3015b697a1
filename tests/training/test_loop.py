"""What the loop promises to every objective."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_training import Denoise, Duel, ToyData, ToyNetwork, ToyObjective, assert_same_bits, weights

from genforge.contracts import Batch, Loss, Network, Objective, Player
from genforge.randomness import seed_everything
from genforge.settings import UserError
from genforge.training import acceleration
from genforge.training.checkpoint import Checkpoints
from genforge.training.failure import TrainingFailed
from genforge.training.loop import TrainingSettings, train
from genforge.training.optimization import OptimizerSettings, PlayerOptimizer, learning_rate_factor
from genforge.training.termination import Terminated
from genforge.training.turn import Part, Turn

SHORT = TrainingSettings(steps=23, batch_size=8, checkpoint_every=5, log_every=4, ema=0.9)


def fresh(kind: type[Objective]) -> Objective:
    seed_everything(1)
    return kind()  # type: ignore[call-arg]


@pytest.mark.parametrize("every", [1, 5])
def test_players_take_turns_as_they_state_and_each_turn_takes_a_batch_of_its_own(every: int) -> None:
    duel, data = Duel(every), ToyData()
    trained = train(duel, data, SHORT)
    assert duel.turns == duel.after == {"critic": 23, "generator": 23 // every}
    assert data.asked == list(range(23 + 23 // every))
    assert (trained.steps, trained.images_seen) == (23, 23 * 8)


def test_the_learning_rate_of_a_step_is_that_of_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, take = [], Turn.take

    def watched(turn: Turn, parts: Sequence[Part], factor: float, measured: bool = True) -> Any:
        rates.append(factor)
        return take(turn, parts, factor, measured)

    monkeypatch.setattr(Turn, "take", watched)
    train(fresh(MeanLoss), ToyData(), SHORT.model_copy(update={"warmup_steps": 4, "schedule": "cosine"}))
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates == [learning_rate_factor(step, 23, 4, "cosine") for step in range(23)]


def test_only_the_player_on_its_turn_learns() -> None:
    duel = Duel(every=2)
    before = weights(duel)
    train(duel, ToyData(), SHORT)
    assert set(duel.trainable) == {("critic", True, False), ("generator", False, True)}
    assert all(weight.requires_grad for player in duel.players for weight in player.module.parameters())
    assert all(not torch.equal(value, before[key]) for key, value in weights(duel).items())


def test_frozen_players_get_no_gradient() -> None:
    class Watched(Duel):
        def other(self, player: Player) -> Player:
            return next(other for other in self.players if other is not player)

        def loss(self, player: Player, batch: Batch) -> Loss:
            self.other(player).module.zero_grad()  # what its own last turn left
            return super().loss(player, batch)

        def after_step(self, player: Player) -> None:
            super().after_step(player)
            gradients = [weight.grad for weight in self.other(player).module.parameters()]
            assert all(gradient is None for gradient in gradients)

    duel = Watched(every=1)
    train(duel, ToyData(), SHORT)
    assert duel.after == {"critic": 23, "generator": 23}


def test_what_an_objective_froze_stays_frozen() -> None:
    duel = Duel()
    frozen = next(duel.critic.parameters()).requires_grad_(False)
    before = frozen.clone()
    train(duel, ToyData(), SHORT)
    assert torch.equal(frozen, before) and not frozen.requires_grad


class MeanLoss(ToyObjective):
    """No randomness of its own, and a loss that is the mean over its batch."""

    def __init__(self) -> None:
        self.exported: Network = ToyNetwork()
        self.exported.layers[4] = nn.Identity()
        self.players = [Player("only", self.exported)]

    def loss(self, player: Player, batch: Batch) -> Loss:
        assert batch.labels is not None
        error = (self.exported(batch.images) - batch.images).square().flatten(1).mean(1) * (1 + batch.labels)
        return Loss(error.mean(), {"error": error.detach().mean()})


def test_a_batch_in_parts_gives_the_gradient_of_the_whole() -> None:
    logged: dict[int, list[float]] = {}
    results = []
    for accumulation in (1, 4):
        objective = fresh(MeanLoss)
        settings = SHORT.model_copy(update={"accumulation": accumulation, "optimizer": OptimizerSettings(name="sgd")})
        train(
            objective, ToyData(), settings, log=lambda step, values: logged.setdefault(step, []).append(values["error"])
        )
        results.append(weights(objective))
    for key, value in results[0].items():
        assert torch.allclose(value, results[1][key], atol=1e-6), key
    assert all(pair[0] == pytest.approx(pair[1], rel=1e-5) for pair in logged.values())


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(UserError, match=r"training.accumulation: 3 is wrong|training.accumulation: 3: .*batch_size"):
        TrainingSettings.read({"batch_size": 8, "accumulation": 3}, "training")


def test_gradients_are_cut_to_the_clip_norm() -> None:
    objective = fresh(MeanLoss)
    lengths: list[float] = []
    taken: list[float] = []

    def after_step(player: Player) -> None:
        taken.append(float(torch.stack([w.grad.square().sum() for w in player.module.parameters()]).sum().sqrt()))  # type: ignore[union-attr]

    objective.after_step = after_step  # type: ignore[method-assign]
    settings = SHORT.model_copy(update={"clip_norm": 0.01, "log_every": 1})
    train(objective, ToyData(), settings, log=lambda step, values: lengths.append(values["only_gradient"]))
    assert min(lengths) > 0.01, "the toy's gradients are longer than the limit"
    assert taken == pytest.approx([0.01] * 23, rel=1e-3)


def test_the_exported_network_ends_with_its_average_in_evaluation_mode() -> None:
    objective = fresh(Denoise)
    seen: list[list[Tensor]] = []

    def after_step(player: Player) -> None:
        seen.append([weight.detach().clone() for weight in objective.exported.parameters()])

    start = [weight.detach().clone() for weight in objective.exported.parameters()]
    objective.after_step = after_step  # type: ignore[method-assign]
    trained = train(objective, ToyData(), SHORT)
    for n, after in enumerate(seen, start=1):
        kept = min(0.9, (1 + n) / (10 + n))
        start = [kept * old + (1 - kept) * new for old, new in zip(start, after, strict=True)]
    assert trained.network is objective.exported and not trained.network.training
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(trained.network.parameters(), start, strict=True))


def test_without_an_average_the_last_weights_are_exported() -> None:
    objective = fresh(Denoise)
    last: list[Tensor] = []
    objective.after_step = lambda player: last.__setitem__(slice(None), [w.clone() for w in player.module.parameters()])  # type: ignore[method-assign]
    train(objective, ToyData(), SHORT.model_copy(update={"ema": 0.0}))
    assert all(torch.equal(a, b) for a, b in zip(objective.exported.parameters(), last, strict=True))


@pytest.mark.parametrize("kind", [Denoise, Duel])
def test_observing_changes_no_bit_of_the_training(kind: type[Objective]) -> None:
    plain, observed = fresh(kind), None
    train(plain, ToyData(), SHORT)

    def observe(step: int, network: Network) -> None:
        assert not network.training
        seen.append((step, next(network.parameters()).detach().clone()))
        torch.randn(3), np.random.rand(3), random.random()
        network(torch.randn(2, 1, 8, 8))
        for buffer in network.buffers():
            buffer.zero_()

    seen: list[tuple[int, Tensor]] = []
    observed = fresh(kind)
    train(observed, ToyData(), SHORT, observe=observe, observations=4)
    assert [step for step, _ in seen] == [6, 12, 18, 23]
    assert torch.equal(seen[-1][1], next(observed.exported.parameters()))
    assert_same_bits(weights(plain), weights(observed))


def test_what_an_observer_raises_ends_the_training() -> None:
    class Pruned(Exception):
        pass

    def observe(step: int, network: Network) -> None:
        raise Pruned

    with pytest.raises(Pruned):
        train(fresh(Denoise), ToyData(), SHORT, observe=observe, observations=2)


def test_what_has_no_players_is_fitted_without_steps() -> None:
    class ClosedForm(Denoise):
        def __init__(self) -> None:
            super().__init__()
            self.players = []

    objective, seen = ClosedForm(), []
    trained = train(objective, ToyData(), SHORT, observe=lambda step, network: seen.append(step), observations=3)
    assert objective.calls == ["prepare", "finish"]
    assert (trained.steps, trained.images_seen, seen) == (0, 0, [0])


def test_values_are_logged_as_means_over_their_window() -> None:
    objective, rows, every = fresh(MeanLoss), [], []
    train(objective, ToyData(), SHORT.model_copy(update={"log_every": 1}), log=lambda s, v: every.append(v["error"]))
    train(fresh(MeanLoss), ToyData(), SHORT, log=lambda step, values: rows.append((step, values["error"])))
    assert [step for step, _ in rows] == [4, 8, 12, 16, 20, 23]
    previous = 0
    for step, value in rows:
        assert value == pytest.approx(sum(every[previous:step]) / (step - previous), rel=1e-6)
        previous = step


def test_weights_that_are_not_finite_stop_the_run() -> None:
    class Breaks(Denoise):
        def after_step(self, player: Player) -> None:
            next(player.module.parameters()).data[0, 0] = math.inf

        def loss(self, player: Player, batch: Batch) -> Loss:
            loss = super().loss(player, batch)
            return Loss(loss.value.nan_to_num(0.0), {})

    with pytest.raises(TrainingFailed, match="a weight of player `denoiser` is"):
        train(Breaks(), ToyData(), SHORT.model_copy(update={"steps": 1}))


def test_a_player_that_is_not_there_is_named_with_its_nearest() -> None:
    settings = SHORT.model_copy(update={"players": {"critc": PlayerOptimizer(learning_rate=1.0)}})
    with pytest.raises(UserError, match=r"training.players.critc: .* did you mean `critic`"):
        train(Duel(), ToyData(), settings)


def test_a_players_own_learning_rate_moves_it_alone() -> None:
    settings = SHORT.model_copy(update={"steps": 1, "optimizer": OptimizerSettings(name="sgd", betas=(0.0, 0.0))})
    moved = {}
    for rate in (None, 2e-3):
        own = {} if rate is None else {"critic": PlayerOptimizer(learning_rate=rate)}
        duel = fresh(Duel)
        before = weights(duel)
        train(duel, ToyData(), settings.model_copy(update={"players": own}))
        moved[rate] = (weights(duel)["critic.layers.1.weight"] - before["critic.layers.1.weight"]).norm().item()
    assert moved[2e-3] == pytest.approx(10 * moved[None], rel=1e-2)


def test_bfloat16_is_used_in_the_loss_and_not_in_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "multiplies_bfloat16", lambda: True)  # what it lacks, a processor imitates

    class Typed(Denoise):
        def loss(self, player: Player, batch: Batch) -> Loss:
            types.add(self.exported(batch.images).dtype)
            return super().loss(player, batch)

    types: set[torch.dtype] = set()
    objective = fresh(Typed)
    train(objective, ToyData(), SHORT.model_copy(update={"precision": "bfloat16"}))
    assert types == {torch.bfloat16}
    assert {weight.dtype for weight in objective.exported.parameters()} == {torch.float32}


def test_resuming_goes_on_where_observations_and_clock_stood(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    seen: list[int] = []

    def observe(step: int, network: Network) -> None:
        seen.append(step)
        if len(seen) == 3:
            raise Killed

    with pytest.raises(Killed):
        train(fresh(Denoise), ToyData(), SHORT, checkpoints=Checkpoints(tmp_path), observe=observe, observations=5)
    assert seen == [5, 10, 14]
    kept = Checkpoints(tmp_path).load()
    assert kept is not None
    again = train(fresh(Denoise), ToyData(), SHORT, checkpoints=Checkpoints(tmp_path), observe=observe, observations=5)
    assert seen == [5, 10, 14, 10, 14, 19, 23], "from the checkpoint of step 10, before its observation"
    finished = train(
        fresh(Denoise), ToyData(), SHORT, checkpoints=Checkpoints(tmp_path), observe=observe, observations=5
    )
    assert finished.seconds == again.seconds > kept.state["seconds"] > 0
    assert seen[7:] == [23], "a finished run is finished again, and not trained again"


def test_a_checkpoint_of_other_networks_is_refused(tmp_path: Path) -> None:
    train(fresh(Duel), ToyData(), SHORT, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(UserError, match=r"the checkpoint has nothing for network\.denoiser"):
        train(fresh(Denoise), ToyData(), SHORT, checkpoints=Checkpoints(tmp_path))


def test_sigterm_checkpoints_at_the_next_step_and_ends(tmp_path: Path) -> None:
    straight = fresh(Denoise)
    train(straight, ToyData(), SHORT)

    class Signalled(Denoise):
        def after_step(self, player: Player) -> None:
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == 8:
                os.kill(os.getpid(), signal.SIGTERM)

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Terminated) as ended:
        train(fresh(Signalled), ToyData(), SHORT, checkpoints=checkpoints)
    assert ended.value.code == 143
    assert checkpoints.steps() == [8, 5, 0], "those of the intervals stay, to fall back to"
    resumed = fresh(Denoise)
    train(resumed, ToyData(), SHORT, checkpoints=checkpoints)
    assert_same_bits(weights(straight), weights(resumed))


def test_sigterm_while_observing_does_not_wait_for_the_observer(tmp_path: Path) -> None:
    def observe(step: int, network: Network) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)

    began = time.monotonic()
    checkpoints = Checkpoints(tmp_path)
    objective = fresh(Denoise)
    with pytest.raises(Terminated):
        train(objective, ToyData(), SHORT, checkpoints=checkpoints, observe=observe, observations=2)
    assert time.monotonic() - began < 300
    assert checkpoints.steps()[0] == 12
    resumed, straight = fresh(Denoise), fresh(Denoise)
    seen: list[int] = []
    train(resumed, ToyData(), SHORT, checkpoints=checkpoints, observe=lambda s, n: seen.append(s), observations=2)
    train(straight, ToyData(), SHORT)
    assert seen == [12, 23], "the observation that was cut off is made again"
    assert_same_bits(weights(straight), weights(resumed))


def test_the_loop_runs_outside_of_the_main_thread() -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(train(Denoise(), ToyData(), SHORT).steps))
    thread.start()
    thread.join()
    assert results == [23]
