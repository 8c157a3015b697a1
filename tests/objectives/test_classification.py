from __future__ import annotations

import math

import pytest
import torch

from genforge.contracts import Batch, ImageShape, Port
from genforge.networks.classifier import Classifier
from genforge.objectives.classification import Classification, ClassificationSettings, turned


def objective(task: str, shape: ImageShape, classes: int = 5) -> Classification:
    torch.manual_seed(0)
    settings = ClassificationSettings.read({"task": task}, "")
    ports = Classification.ports(settings, shape, classes)
    return Classification(
        settings, {role: Classifier(Classifier.settings_type(), port) for role, port in ports.items()}
    )


def test_four_quarter_turns_are_none() -> None:
    images = torch.rand(6, 3, 8, 8)
    once = images
    for _ in range(4):
        once = turned(once, torch.ones(6, dtype=torch.int64))
    assert torch.equal(once, images)
    assert torch.equal(turned(images, torch.zeros(6, dtype=torch.int64)), images)


def test_every_image_is_turned_by_its_own_number() -> None:
    images, turns = torch.rand(4, 1, 8, 8), torch.tensor([3, 0, 2, 1])
    expected = torch.stack([image.rot90(int(turn), (1, 2)) for image, turn in zip(images, turns, strict=True)])
    assert torch.equal(turned(images, turns), expected)


def test_of_an_oblong_image_the_central_square_is_turned() -> None:
    images = torch.rand(2, 1, 8, 12)
    assert torch.equal(turned(images, torch.tensor([0, 2])[:1].repeat(2)), images[:, :, :, 2:10])


def test_loss_of_one_who_knows_nothing_is_the_logarithm_of_the_classes() -> None:
    teaching = objective("labels", ImageShape(1, 8, 8), classes=5)
    torch.nn.init.zeros_(teaching.exported.get_submodule("head").weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(teaching.exported.get_submodule("head").bias)  # type: ignore[arg-type]
    batch = Batch(torch.rand(10, 1, 8, 8), torch.arange(10) % 5)
    loss = teaching.loss(teaching.players[0], batch)
    assert loss.value.item() == pytest.approx(math.log(5))
    assert loss.logs["accuracy"].item() == pytest.approx(0.2)


def test_rotations_need_no_labels_and_have_four_answers() -> None:
    teaching = objective("rotations", ImageShape(3, 16, 16), classes=0)
    assert teaching.exported.port == Port("image_to_vector", ImageShape(3, 16, 16), outputs=4)
    seen, answers = teaching.question(Batch(torch.rand(64, 3, 16, 16)))
    assert seen.shape == (64, 3, 16, 16)
    assert set(answers.tolist()) == {0, 1, 2, 3}
    assert teaching.loss(teaching.players[0], Batch(torch.rand(8, 3, 16, 16))).value.requires_grad


def test_labels_of_one_class_teach_nothing() -> None:
    with pytest.raises(ValueError, match="labels of 1 classes tell nothing apart"):
        objective("labels", ImageShape(1, 8, 8), classes=1)


def test_labels_are_asked_for_where_there_are_none() -> None:
    teaching = objective("labels", ImageShape(1, 8, 8))
    with pytest.raises(ValueError, match="no labels"):
        teaching.loss(teaching.players[0], Batch(torch.rand(4, 1, 8, 8)))
