"""SIGTERM ends a run within seconds wherever it stands, with the status of a shell, and loses nothing.

Every run here is a child of its own that really gets the signal; one that slept through it would sleep for a minute.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_training import Denoise, ToyData, assert_same_bits, weights

from genforge.contracts import Batch, Loss, Network, Player, TrainingData
from genforge.randomness import seed_everything
from genforge.training.checkpoint import Checkpoints, Snapshot
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings
from genforge.training.termination import Terminated, Termination
from tests.disasters import in_child

SETTINGS = TrainingSettings(steps=12, batch_size=8, checkpoint_every=5, log_every=4, ema=0.9)
TERMINATED = 143
PATIENCE = 200.0  # seconds, of a machine that has other things to do; where the signal is not heard, it sleeps 600


def ask_to_end(then_sleep: bool = True) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    if then_sleep:
        time.sleep(600)


class Asking(Denoise):
    """Is asked to end at the moment `when`."""

    when = ""

    def prepare(self, data: TrainingData) -> None:
        if self.when == "prepare":
            ask_to_end()

    def loss(self, player: Player, batch: Batch) -> Loss:
        if self.when == "first step":
            ask_to_end(then_sleep=False)
        return super().loss(player, batch)

    def finish(self, data: TrainingData) -> None:
        if self.when == "finish":
            ask_to_end()


class AskingCheckpoints(Checkpoints):
    """While the checkpoint of step 5 is written."""

    def _seal(self, snapshot: Snapshot, tensors_digest: str) -> dict[str, object]:
        if snapshot.step == 5:
            ask_to_end(then_sleep=False)
        return super()._seal(snapshot, tensors_digest)


def run(folder: Path, when: str = "") -> Denoise:
    def observe(step: int, network: Network) -> None:
        if (when == "observation" and step == 6) or (when == "last observation" and step == 12):
            ask_to_end()

    def log(step: int, values: dict[str, float]) -> None:
        if when == "log":
            ask_to_end(then_sleep=False)

    seed_everything(1)
    objective = Asking()
    objective.when = when
    checkpoints = (AskingCheckpoints if when == "checkpoint" else Checkpoints)(folder)
    train(objective, ToyData(), SETTINGS, checkpoints=checkpoints, observe=observe, observations=2, log=log)
    return objective


@pytest.mark.parametrize(
    "when, newest",
    [
        ("prepare", None),
        ("first step", 1),
        ("log", 4),
        ("checkpoint", 5),
        ("observation", 6),
        ("finish", 12),
        ("last observation", 12),
    ],
)
def test_wherever_a_run_stands_it_ends_soon_and_goes_on_from_there(
    tmp_path: Path, when: str, newest: int | None
) -> None:
    straight = run(tmp_path / "straight")
    began = time.monotonic()
    assert in_child(lambda: run(tmp_path / "asked", when)) == TERMINATED
    assert time.monotonic() - began < PATIENCE
    assert next(iter(Checkpoints(tmp_path / "asked").steps()), None) == newest
    assert_same_bits(weights(straight), weights(run(tmp_path / "asked")))


def test_a_checkpoint_that_cannot_be_written_does_not_keep_a_run_from_ending(tmp_path: Path) -> None:
    def work() -> None:
        warnings: list[str] = []

        class Full(Checkpoints):
            def save(self, snapshot: Snapshot) -> Path:
                if snapshot.step > 0:
                    self.folder = Path("/dev/full")  # in which no folder can be made
                return super().save(snapshot)

        objective = Asking()
        objective.when = "first step"
        try:
            train(objective, ToyData(), SETTINGS, checkpoints=Full(tmp_path, warn=warnings.append))
        finally:
            (tmp_path / "warned.txt").write_text("\n".join(warnings))

    assert in_child(work) == TERMINATED
    assert "leaves at step 1 without a checkpoint of it" in (tmp_path / "warned.txt").read_text()


def test_a_run_that_is_not_finite_is_not_kept_when_it_is_asked_to_end(tmp_path: Path) -> None:
    class Poisoned(Asking):
        def loss(self, player: Player, batch: Batch) -> Loss:
            loss = super().loss(player, batch)
            return Loss(loss.value * torch.nan)

    objective = Poisoned()
    objective.when = "first step"
    warnings: list[str] = []
    with pytest.raises(Terminated):
        train(objective, ToyData(), SETTINGS, checkpoints=Checkpoints(tmp_path, warn=warnings.append))
    assert Checkpoints(tmp_path).steps() == [0]
    (warning,) = warnings
    assert "leaves at step 1" in warning and "is nan" in warning


def raised(block: Callable[[], None]) -> bool:
    try:
        block()
    except Terminated:
        return True
    return False


def test_a_signal_that_came_too_late_to_be_checked_is_heard_at_the_end_of_the_block() -> None:
    def block() -> None:
        with Termination():
            ask_to_end(then_sleep=False)
            heard.append("the block went on")

    heard: list[str] = []
    assert raised(block) and heard == ["the block went on"]


def test_a_second_signal_does_not_break_into_the_tidying_up_after_the_first() -> None:
    tidied: list[str] = []

    def block() -> None:
        with Termination() as outer, outer.at_once():
            try:
                with Termination() as inner:
                    ask_to_end(then_sleep=False)
                    inner.check()
            finally:
                ask_to_end(then_sleep=False)
                tidied.append("whole")

    assert raised(block) and tidied == ["whole"]


def test_afterwards_the_signal_does_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Termination():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
