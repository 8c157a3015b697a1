"""A run that is killed with SIGKILL at any instant and resumed ends with the same bits as one never stopped.

This is a contract: every recipe of the library inherits it, by being there.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from toy_training import SHAPE, Denoise, Duel, ToyData, assert_same_bits, weights

from genforge.catalog import build_objective, library, resolve
from genforge.contracts import Objective
from genforge.randomness import seed_everything
from genforge.training.checkpoint import Checkpoints
from genforge.training.loop import TrainingSettings, train

Build = Callable[[], Objective]
TOYS: dict[str, Build] = {"one player": Denoise, "two players": Duel}
SETTINGS = TrainingSettings(steps=24, batch_size=8, checkpoint_every=3, log_every=4, ema=0.9, warmup_steps=10)


def run(build: Build, settings: TrainingSettings, folder: Path | None) -> dict[str, torch.Tensor]:
    """Train from the start, or from the newest checkpoint in `folder`: all final weights."""
    seed_everything(5)
    objective = build()
    train(objective, ToyData(), settings, seed=5, checkpoints=Checkpoints(folder) if folder else None)
    return weights(objective)


def run_and_write(build: Build, settings: TrainingSettings, folder: Path, result: Path) -> None:
    torch.set_num_threads(1)
    safetensors.torch.save_file(run(build, settings, folder), result)


def killed_again_and_again(build: Build, settings: TrainingSettings, folder: Path, seconds: float) -> Path:
    """Run in processes that are killed at random instants, spread over `seconds`, until the fourth may end."""
    result = folder / "weights.safetensors"
    fork = multiprocessing.get_context("fork")  # a forked child has everything imported already
    chance = random.Random(str(folder))
    for kills_left in (3, 2, 1, 0):
        process = fork.Process(target=run_and_write, args=(build, settings, folder / "checkpoints", result))
        process.start()
        if kills_left:
            time.sleep(chance.uniform(0.1, 0.9) * seconds)
            process.kill()
        process.join()
    assert process.exitcode == 0
    return result


def check(build: Build, settings: TrainingSettings, folder: Path) -> None:
    began = time.monotonic()
    straight = run(build, settings, None)
    seconds = time.monotonic() - began
    resumed = safetensors.torch.load_file(killed_again_and_again(build, settings, folder, seconds))
    assert_same_bits(straight, resumed)


@pytest.mark.parametrize("name", list(TOYS))
def test_toys_killed_and_resumed_end_with_the_same_bits(tmp_path: Path, name: str) -> None:
    check(TOYS[name], SETTINGS.model_copy(update={"steps": 150, "checkpoint_every": 5}), tmp_path)


@pytest.mark.parametrize("name", library())
def test_recipes_killed_and_resumed_end_with_the_same_bits(tmp_path: Path, name: str) -> None:
    recipe = resolve(name, {"from": name})
    shortened = {
        "steps": 12,
        "batch_size": 8,
        "accumulation": 1,
        "checkpoint_every": 3,
        "log_every": 2,
        "warmup_steps": 4,
    }
    settings = TrainingSettings.read({**recipe.training, **shortened}, "training")
    check(lambda: build_objective(recipe, SHAPE, classes=3), settings, tmp_path)


@pytest.mark.parametrize("stop", [3, 13, 24])
@pytest.mark.parametrize("name", list(TOYS))
def test_every_checkpoint_leads_to_the_same_end(tmp_path: Path, name: str, stop: int) -> None:
    """The checkpoint of each step holds all that the rest of the run depends on."""

    class Stopped(Exception):
        pass

    def log(step: int, values: dict[str, float]) -> None:
        if step > stop:
            raise Stopped

    seed_everything(5)
    settings = SETTINGS.model_copy(update={"checkpoint_every": 1, "log_every": 1})
    try:
        train(TOYS[name](), ToyData(), settings, seed=5, checkpoints=Checkpoints(tmp_path), log=log)
    except Stopped:
        assert Checkpoints(tmp_path).steps()[0] == stop
    assert_same_bits(run(TOYS[name], settings, None), run(TOYS[name], settings, tmp_path))
