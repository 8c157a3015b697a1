from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genforge.contracts import ImageShape, Port, to_network
from genforge.evaluation.card import CARD
from genforge.evaluation.extractor import WEIGHTS, ClassifierExtractor, load_extractor, write_classifier
from genforge.files import write_json
from genforge.networks.classifier import Classifier
from genforge.settings import UserError

SHAPE = ImageShape(3, 12, 12)


def write(folder: Path, names_classes: bool = True) -> Classifier:
    torch.manual_seed(0)
    network = Classifier(Classifier.settings_type.read({"width": 16}, ""), Port("image_to_vector", SHAPE, outputs=7))
    write_classifier(folder, network, names_classes=names_classes, about={"data": "d"})
    return network.eval()


def pictures() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (30, SHAPE.height, SHAPE.width, SHAPE.channels)).astype(np.uint8)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets PyTorch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_what_is_read_back_sees_what_was_written(tmp_path: Path) -> None:
    network, images = write(tmp_path), pictures()
    seen = load_extractor(tmp_path).features(images)
    with torch.no_grad():
        logits = network(to_network(torch.from_numpy(images)))
    assert seen.features.shape == (30, 64)
    assert seen.logits is not None
    np.testing.assert_allclose(seen.logits, logits.numpy(), rtol=1e-4, atol=1e-5)


def test_features_of_an_image_do_not_depend_on_its_batch(tmp_path: Path) -> None:
    write(tmp_path)
    extractor, images = load_extractor(tmp_path), pictures()
    together, alone = extractor.features(images, 30), extractor.features(images, 1)
    np.testing.assert_allclose(together.features, alone.features, rtol=1e-4, atol=1e-6)


def test_features_are_the_same_bits_on_any_number_of_threads(tmp_path: Path, threads: Callable[[int], None]) -> None:
    write(tmp_path)
    extractor, images = load_extractor(tmp_path), pictures()
    extractor.at_once = 4
    threads(1)
    alone = extractor.features(images)
    threads(3)
    together = extractor.features(images)
    assert np.array_equal(together.features, alone.features)
    assert together.logits is not None and alone.logits is not None
    assert np.array_equal(together.logits, alone.logits)


@pytest.mark.parametrize("side", [8, 32])
def test_features_are_those_of_double_precision_to_rounding(side: int) -> None:
    torch.manual_seed(0)
    port = Port("image_to_vector", ImageShape(1, side, side), outputs=3)
    network = Classifier(Classifier.settings_type.read({"width": 16}, ""), port)
    images = np.random.RandomState(0).randint(0, 256, (20, side, side, 1)).astype(np.uint8)
    seen = ClassifierExtractor(network, "d", names_classes=True).features(images)
    levels = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    exact = network.double()(levels / 127.5 - 1.0).numpy()
    assert seen.logits is not None
    assert np.abs(seen.logits - exact).max() < 4e-6 * np.abs(exact).max()


def test_larger_images_are_looked_at_fewer_at_once() -> None:
    once = []
    for side in (8, 32, 256):
        network = Classifier(Classifier.settings_type(), Port("image_to_vector", ImageShape(3, side, side), outputs=3))
        once.append(ClassifierExtractor(network, "d", names_classes=True).at_once)
    assert once == [256, 64, 16]


def test_images_that_are_only_readable_are_looked_at_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write(tmp_path)
    images = pictures()
    images.flags.writeable = False
    load_extractor(tmp_path).features(images)
    assert not [str(warning.message) for warning in recwarn if "writable" in str(warning.message)]


def test_one_that_learned_rotations_says_why_it_names_no_classes(tmp_path: Path) -> None:
    write(tmp_path, names_classes=False)
    extractor, card = load_extractor(tmp_path), json.loads((tmp_path / CARD).read_text())
    assert not extractor.has_logits
    assert extractor.features(pictures()).logits is None
    assert (card["kind"], card["has_logits"], card["logits_layer"]) == ("rotations", False, None)
    assert "no two classes" in card["why_no_logits"]


def test_card_says_what_a_person_asks(tmp_path: Path) -> None:
    write(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    expected: dict[str, Any] = {
        "name": "classifier",
        "kind": "labels",
        "dimensions": 64,
        "feature_layer": "features",
        "logits_layer": "logits",
        "has_logits": True,
        "why_no_logits": None,
        "data": "d",
    }
    assert {key: card[key] for key in expected} == expected


def test_the_same_weights_have_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert load_extractor(tmp_path / "a").digest == load_extractor(tmp_path / "b").digest


def test_half_precision_stands_on_the_card_and_rounds_features_that_stay_float32(tmp_path: Path) -> None:
    write(tmp_path)
    full = load_extractor(tmp_path).features(pictures())
    write_json(tmp_path / CARD, {**json.loads((tmp_path / CARD).read_text()), "precision": "bfloat16"})
    half = load_extractor(tmp_path)
    seen = half.features(pictures())
    assert half.precision == "bfloat16"
    assert seen.features.dtype == np.float32
    assert seen.logits is not None and seen.logits.dtype == np.float32
    assert 0 < np.abs(seen.features - full.features).max() < 0.05 * np.abs(full.features).max()


def test_damaged_weights_are_noticed(tmp_path: Path) -> None:
    write(tmp_path)
    damaged = bytearray((tmp_path / WEIGHTS).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(damaged)
    with pytest.raises(UserError, match=r"has digest .* but its card says .*genforge step extractor"):
        load_extractor(tmp_path)


def test_missing_weights_are_told(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors does not exist"):
        load_extractor(tmp_path)
