"""A run that is killed at any instant and resumed ends with the same bits as one never stopped: weights, curves, film.

This is a contract: every recipe of the library inherits it by being there, and every objective has a recipe
(tests/recipes/test_library.py).
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from toy_training import SHAPE, Denoise, Duel, ToyData, assert_same_bits, weights

from genforge.catalog import build_objective, library, resolve
from genforge.contracts import Batch, Loss, Network, Objective, Player
from genforge.files import digest_bytes
from genforge.networks.classifier import Classifier
from genforge.objectives.classification import ROLE, Classification, ClassificationSettings
from genforge.randomness import seed_everything
from genforge.training.checkpoint import Checkpoints, whole
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings
from tests.disasters import REACHED, in_child, strike

Build = Callable[[], Objective]
SETTINGS = TrainingSettings(steps=24, batch_size=8, checkpoint_every=3, log_every=4, ema=0.9, warmup_steps=10)


class Remembering(Denoise):
    """Has state outside of its networks: a buffer that grows, and a strength that follows the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(0, 1, 8, 8)
        self.strength = torch.tensor(0.1, dtype=torch.float64)

    def loss(self, player: Player, batch: Batch) -> Loss:
        self.buffer = torch.cat([self.buffer, batch.images[:1]])[-10:]
        chosen = self.buffer[torch.randint(len(self.buffer), (len(batch),))]
        value = (self.exported(chosen) - batch.images).square().mean() * self.strength.float()
        self.strength = 0.9 * self.strength + 0.1 * value.detach().double()
        return Loss(value, {"loss": value.detach(), "strength": self.strength.float()})

    def state(self) -> dict[str, Tensor]:
        return {"buffer": self.buffer, "strength": self.strength}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.buffer, self.strength = state["buffer"], state["strength"]


def classification() -> Objective:
    """The judge's eyes: the one objective that is in no recipe."""
    settings = ClassificationSettings(task="rotations")
    port = Classification.ports(settings, SHAPE, 3)[ROLE]
    return Classification(settings, {ROLE: Classifier(Classifier.settings_type.read({"width": 8}, "test"), port)})


TOYS: dict[str, Build] = {"one player": Denoise, "two players": Duel, "state": Remembering}


def look(step: int, network: Network) -> np.ndarray:
    """A picture in which every bit of the network counts."""
    torch.randn(step)  # an observer may draw as it likes
    content = safetensors.torch.save({key: value.contiguous() for key, value in network.state_dict().items()})
    return np.frombuffer(bytes.fromhex(digest_bytes(content)), np.uint8).reshape(1, 4, 4, 1).copy()


def run(
    build: Build, settings: TrainingSettings, folder: Path | None, data: ToyData | None = None
) -> dict[str, Tensor]:
    """Train from the start, or from the newest checkpoint in `folder`: all final weights, the curves, the film."""
    seed_everything(5)
    objective = build()
    checkpoints = Checkpoints(folder, warn=lambda text: None) if folder else None
    options = {"seed": 5, "checkpoints": checkpoints, "observe": look, "observations": 4}
    history = train(objective, data or ToyData(), settings, **options).history  # type: ignore[arg-type]
    with tempfile.NamedTemporaryFile() as file:
        history.write_csv(Path(file.name))
        curves = np.frombuffer(Path(file.name).read_bytes(), np.uint8).copy()
    return {
        **weights(objective),
        "curves": torch.from_numpy(curves),
        "film": torch.from_numpy(np.stack(list(history.images.values()))),
    }


def goes_on(folder: Path, run: Callable[[], list[int]]) -> None:
    """See that `run`, which tells the turns that it asked the data for, asks for none from before the newest checkpoint
    in `folder`. But for the first, which some objectives look at whenever they begin or end."""
    checkpoints = Checkpoints(folder, warn=lambda text: None)
    checkpoints.load()  # what is damaged is set aside
    step = max(checkpoints.steps(), default=0)  # no step has less than one turn
    assert all(turn >= step for turn in run() if turn > 0)


def damage(checkpoint: Path, chance: random.Random) -> None:
    """A torn write, as it may look after a power cut."""
    file = checkpoint / chance.choice(["state.json", "tensors.safetensors"])
    content = file.read_bytes()
    match chance.choice(["cut", "zeros", "bit", "missing"]):
        case "cut":
            file.write_bytes(content[: chance.randrange(len(content))])
        case "zeros":
            file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
        case "bit":
            place = chance.randrange(len(content))
            file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        case "missing":
            file.unlink()


def check(build: Build, settings: TrainingSettings, folder: Path, kills: int = 2, fills: int = 1) -> None:
    """Struck again and again, in a step, while the disk is written to (`kills`), when it is full (`fills`), with torn
    writes between, and resumed each time: the same bits."""
    began = time.monotonic()
    straight = run(build, settings, None)
    seconds = time.monotonic() - began
    kept, result = folder / "checkpoints", folder / "result.safetensors"
    chance = random.Random(folder.name)

    def work() -> None:
        torch.set_num_threads(1)
        data = ToyData()
        found = run(build, settings, kept, data)
        safetensors.torch.save_file({**found, "asked": torch.tensor(data.asked, dtype=torch.int64)}, result)

    in_child(work, seconds_until_killed=chance.uniform(0.2, 0.9) * seconds)
    if build().players:  # else there are no steps, and nothing to go on from
        for _ in range(kills):
            status = strike("kill", chance.randrange(3, 40), kept, work)
            assert status in (-signal.SIGKILL, 0, REACHED)
            if len(checkpoints := whole(kept)) > 1:
                damage(checkpoints[0], chance)
        for _ in range(fills):
            strike("full", chance.randrange(3, 40), kept, work)
    result.unlink(missing_ok=True)
    found: dict[str, Tensor] = {}

    def at_last() -> list[int]:
        assert in_child(work) == 0
        found.update(safetensors.torch.load_file(result))
        asked: list[int] = found.pop("asked").tolist()
        return asked

    goes_on(kept, at_last)
    assert_same_bits(straight, found)


@pytest.mark.parametrize("name", list(TOYS))
def test_toys_struck_and_resumed_end_with_the_same_bits(tmp_path: Path, name: str) -> None:
    check(TOYS[name], SETTINGS.model_copy(update={"steps": 150, "checkpoint_every": 5}), tmp_path)


@pytest.mark.parametrize("name", library())
def test_recipes_struck_and_resumed_end_with_the_same_bits(tmp_path: Path, name: str) -> None:
    recipe = resolve(name, {"from": name})
    shortened = {
        "steps": 8,
        "batch_size": 8,
        "accumulation": 1,
        "checkpoint_every": 2,
        "log_every": 2,
        "warmup_steps": 4,
    }
    settings = TrainingSettings.read({**recipe.training, **shortened}, "training")
    check(lambda: build_objective(recipe, SHAPE, classes=3), settings, tmp_path, kills=1, fills=0)


def test_the_judges_eyes_struck_and_resumed_end_with_the_same_bits(tmp_path: Path) -> None:
    check(classification, SETTINGS, tmp_path)


class Stopped(Exception):
    pass


class StoppingData(ToyData):
    """Ends the run when a batch of turn `stop` is asked for."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def batch(self, turn: int, size: int) -> Batch:
        if turn * size == self.stop * SETTINGS.batch_size:
            raise Stopped
        return super().batch(turn, size)


def stopped_and_resumed(
    build: Build, stop: int, folder: Path, settings: TrainingSettings = SETTINGS
) -> dict[str, Tensor]:
    settings = settings.model_copy(update={"checkpoint_every": 1})
    seed_everything(5)
    with pytest.raises(Stopped):
        kept = Checkpoints(folder)
        train(build(), StoppingData(stop), settings, seed=5, checkpoints=kept, observe=look, observations=4)
    assert Checkpoints(folder).steps()[0] >= stop // 2
    data, found = ToyData(), {}

    def resumed() -> list[int]:
        found.update(run(build, settings, folder, data))
        return data.asked

    goes_on(folder, resumed)
    return found


@pytest.mark.parametrize("stop", [3, 13, 23])
@pytest.mark.parametrize("name", list(TOYS))
def test_every_checkpoint_leads_to_the_same_end(tmp_path: Path, name: str, stop: int) -> None:
    """The checkpoint of each step holds all that the rest of the run depends on."""
    assert_same_bits(run(TOYS[name], SETTINGS, None), stopped_and_resumed(TOYS[name], stop, tmp_path))


VARIANTS: dict[str, dict[str, Any]] = {
    "rmsprop": {"optimizer": {"name": "rmsprop", "learning_rate": 1e-3}},
    "sgd": {"optimizer": {"name": "sgd", "learning_rate": 1e-2}, "clip_norm": 0.5},
    "adamw": {"optimizer": {"name": "adamw", "weight_decay": 0.1}, "schedule": "cosine", "accumulation": 4},
    "own rates": {"players": {"critic": {"learning_rate": 1e-3}}, "ema": 0.0},
    "bfloat16": {"precision": "bfloat16", "channels_last": True},
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_way_of_training_is_resumed_to_the_same_end(tmp_path: Path, name: str) -> None:
    settings = TrainingSettings.read({**SETTINGS.model_dump(), "steps": 16, **VARIANTS[name]}, "training")
    recipe = resolve("hinge-sngan", {"from": "hinge-sngan"})
    build: Build = lambda: build_objective(recipe, SHAPE, classes=3)  # noqa: E731
    resumed = stopped_and_resumed(build, 13, tmp_path, settings)
    assert_same_bits(run(build, settings, None), resumed)


def test_every_stabiliser_of_a_gan_is_resumed_to_the_same_end(tmp_path: Path) -> None:
    """What they draw hangs on torch's generator, how strong the noise is on the turns that the critic has had."""
    objective = {
        "loss": "non-saturating",
        "label_smoothing": 0.1,
        "label_flipping": 0.2,
        "instance_noise": 0.5,
        "instance_noise_turns": 20,
        "augmentation": ["colour", "translation", "cutout"],
        "gradient_penalty": 1.0,
        "r1": 1.0,
        "feature_matching": 1.0,
        "conditional": True,
    }
    recipe = resolve("test", {"from": "hinge-sngan", "objective": objective})
    build: Build = lambda: build_objective(recipe, SHAPE, classes=3)  # noqa: E731
    settings = SETTINGS.model_copy(update={"steps": 16})
    resumed = stopped_and_resumed(build, 13, tmp_path, settings)
    assert_same_bits(run(build, settings, None), resumed)


def test_what_an_objective_gives_and_does_not_take_back_is_told(tmp_path: Path) -> None:
    class Forgetful(Remembering):
        load_state = Objective.load_state

    checkpoints = Checkpoints(tmp_path)
    train(Forgetful(), ToyData(), SETTINGS, checkpoints=checkpoints)
    with pytest.raises(NotImplementedError, match=r"Forgetful has a `state` .* and no `load_state`"):
        train(Forgetful(), ToyData(), SETTINGS, checkpoints=checkpoints)


def test_state_that_was_left_out_of_the_checkpoint_is_caught_by_the_contract(tmp_path: Path) -> None:
    class Careless(Remembering):
        state = Objective.state
        load_state = Objective.load_state

    with pytest.raises(AssertionError, match="tensors differ"):
        assert_same_bits(run(Careless, SETTINGS, None), stopped_and_resumed(Careless, 13, tmp_path))


def test_under_other_conditions_a_run_goes_on_and_says_that_its_bits_are_others(tmp_path: Path) -> None:
    warnings: list[str] = []
    checkpoints = Checkpoints(tmp_path, warn=warnings.append)
    alone = train(Denoise(), ToyData(), SETTINGS.model_copy(update={"steps": 12}), checkpoints=checkpoints)
    assert len(alone.environments) == 1
    torch.set_num_threads(2)
    changed = train(Denoise(), ToyData(), SETTINGS, checkpoints=checkpoints)
    (warning,) = warnings
    assert "step 12" in warning and "(threads 1 is now 2)" in warning and "not those of a run" in warning
    assert [environment["threads"] for environment in changed.environments] == ["1", "2"]
    assert changed.environments[0] == alone.environments[0]
    train(Denoise(), ToyData(), SETTINGS, checkpoints=checkpoints)
    assert len(warnings) == 1, "the last checkpoint is of these conditions"
