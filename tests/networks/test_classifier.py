from __future__ import annotations

import pytest
import torch

from genforge.contracts import ImageShape, Port
from genforge.networks.classifier import Classifier
from genforge.settings import UserError


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "sides", [(8, 8), (12, 12), (16, 16), (20, 20), (28, 28), (36, 36), (64, 64), (8, 64), (16, 8)]
)
def test_any_size_becomes_the_same_number_of_features(channels: int, sides: tuple[int, int]) -> None:
    port = Port("image_to_vector", ImageShape(channels, *sides), outputs=7)
    network = Classifier(Classifier.settings_type(), port).eval()
    images = torch.rand(3, channels, *sides) * 2 - 1
    with torch.no_grad():
        features, logits = network.features(images), network(images)
    assert features.shape == (3, 128)
    assert logits.shape == (3, 7)
    assert (features >= 0).all()
    assert torch.equal(network.head(features), logits)


def test_features_are_four_times_the_width() -> None:
    port = Port("image_to_vector", ImageShape(1, 8, 8), outputs=2)
    assert Classifier(Classifier.settings_type.read({"width": 16}, ""), port).dimensions == 64


def test_a_width_that_does_not_fit_its_groups_is_told() -> None:
    with pytest.raises(UserError, match=r"extractor\.width: 12 .*multiple of 8"):
        Classifier.settings_type.read({"width": 12}, "extractor")
