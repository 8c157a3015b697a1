"""What is seen of a run on the way: gradients, and whether the critic knows its training images by heart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genforge import catalog
from genforge.contracts import Batch, ImageShape
from genforge.randomness import seed_everything
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings
from genforge.training.turn import Part
from tests.networks.network_cases import Images, some_pixels
from tests.objectives.test_stabilisers import real, tiny, turn

IMAGE = ImageShape(1, 8, 8)


def flat(value: float) -> Batch:
    """Images whose outputs are this."""
    return Batch(torch.full((6, 1, 8, 8), value))


@pytest.mark.parametrize(
    ("training", "held_out", "fake", "expected"),
    [
        (2.0, 2.0, -1.0, 0.0),  # tells both kinds of real images alike
        (2.0, -1.0, -1.0, 1.0),  # takes what it has not seen for generated
        (2.0, 0.5, -1.0, 0.5),
        (-1.0, 0.0, -1.0, 0.0),  # no advantage that could be owed to anything
    ],
)
def test_overfitting_is_the_share_of_its_advantage_that_a_critic_owes_to_having_seen_the_images(
    training: float, held_out: float, fake: float, expected: float
) -> None:
    objective = tiny()
    objective.critic.direction.data.fill_(1 / 64)  # an image's output is its mean
    objective.generator.image.data.fill_(fake)
    found = objective.examine(flat(training), flat(held_out))
    assert found["critic_on_training"].item() == pytest.approx(training)
    assert found["critic_on_held_out"].item() == pytest.approx(held_out)
    assert found["critic_overfitting"].item() == pytest.approx(expected)


@pytest.mark.parametrize("clip", [None, 1e9])
def test_the_length_of_every_gradient_is_logged(clip: float | None) -> None:
    objective = tiny(loss="wasserstein", r1=1.0)
    before = objective.critic.direction.detach().clone()
    _, logs = turn(objective, rate=0.1, clip_norm=clip).take([Part(real())], 1.0)
    moved = (objective.critic.direction.detach() - before).norm() / 0.1
    assert logs["critic_gradient"].item() == pytest.approx(moved.item(), rel=1e-4)


def trained(held_out: Images | None, log: Any = None) -> dict[str, Tensor]:
    entry = {
        "from": "dcgan",
        "networks": {"generator": {"width": 8}, "critic": {"width": 8, "normalisation": "none", "spectral_norm": True}},
    }
    seed_everything(3)
    objective = catalog.build_objective(catalog.resolve("test", entry), IMAGE, 0)
    settings = TrainingSettings(steps=6, batch_size=4, log_every=2)
    train(objective, some_pixels(IMAGE), settings, held_out=held_out, log=log)
    return {**objective.generator.state_dict(), **{f"critic.{k}": v for k, v in objective.critic.state_dict().items()}}  # type: ignore[attr-defined]


def test_looking_at_held_out_images_changes_nothing_and_is_logged_at_every_row() -> None:
    rows: dict[int, dict[str, float]] = {}
    unwatched = trained(None)
    watched = trained(some_pixels(IMAGE, count=10), lambda step, values: rows.update({step: values}))
    assert all(torch.equal(watched[key], unwatched[key]) for key in unwatched)
    assert list(rows) == [2, 4, 6]
    for values in rows.values():
        assert {"critic_on_held_out", "critic_overfitting", "critic_gradient", "generator_gradient"} <= values.keys()


def test_a_critic_that_has_learned_its_few_images_by_heart_is_seen_to() -> None:
    """Sixteen images of noise: there is nothing to learn but these very images."""
    entry = {
        "from": "gan-mlp",
        "networks": {"generator": {"widths": [16]}, "critic": {"widths": [64], "dropout": 0.0}},
        "training": {"optimizer": {"learning_rate": 1e-3}, "players": {"critic": {"learning_rate": 5e-3}}},
    }
    recipe = catalog.resolve("test", entry)
    seed_everything(0)
    objective = catalog.build_objective(recipe, IMAGE, 0)
    rows: dict[int, float] = {}
    settings = TrainingSettings.read({**recipe.training, "steps": 150, "batch_size": 16, "log_every": 50}, "test")
    noise = torch.randn(80, 1, 8, 8).clamp(-1, 1)
    train(
        objective,
        Images(noise[:16]),
        settings,
        held_out=Images(noise[16:]),
        log=lambda step, values: rows.update({step: values["critic_overfitting"]}),
    )
    assert rows[150] > 0.5
