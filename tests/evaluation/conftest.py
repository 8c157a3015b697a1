"""Extractors whose features are known, and judges that look through them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genforge.contracts import ImageShape, Port, to_network
from genforge.evaluation.extractor import ClassifierExtractor, Extractor
from genforge.evaluation.fidelity import Judge
from genforge.evaluation.reference import read_reference, write_reference
from genforge.files import digest_array
from genforge.networks.classifier import Classifier


class Linear(Extractor):
    """Features are fixed linear maps of the pixels, in their units of 0 to 255; logits are the first ten features."""

    name, feature_layer, logits_layer, resizing, device = "linear", "features", "logits", "none", "cpu"

    def __init__(self, matrix: np.ndarray, looked: list[int] | None = None) -> None:
        self.matrix = torch.from_numpy(matrix.astype(np.float32))  # (pixels, dimensions)
        self.dimensions = matrix.shape[1]
        self.digest = digest_array(matrix)
        self.looked = looked  # counts the images that were looked at

    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.looked is not None:
            self.looked.append(len(images))
        features = self.look_between(to_network(images))
        return features, features[:, :10]

    def look_between(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).add(1.0).mul(127.5).flatten(1).float() @ self.matrix


def random_classifier(shape: ImageShape, names_classes: bool = True, seed: int = 0) -> ClassifierExtractor:
    """A classifier that learned nothing: its features are as good as any for comparing two ways to compute."""
    torch.manual_seed(seed)
    network = Classifier(Classifier.settings_type(), Port("image_to_vector", shape, outputs=10))
    return ClassifierExtractor(network, f"random-{seed}-{shape.channels}-{shape.height}-{names_classes}", names_classes)


def judge_with(folder: Path, extractor: Extractor, real: np.ndarray) -> Judge:
    """A judge with this extractor and these real images; the reference is written into `folder` and read again."""
    write_reference(folder, extractor, real)
    shape = ImageShape(real.shape[3], real.shape[1], real.shape[2])
    return Judge(extractor, shape, read_reference(folder), digest_array(real))


def blobs(count: int, shape: ImageShape, level: int = 128, seed: int = 0) -> np.ndarray:
    """Blocks of random gray with a little noise, around a level: uint8 (count, height, width, channels)."""
    random = np.random.RandomState(seed)
    blocks = random.normal(level, 40, (count, shape.height // 4, shape.width // 4, shape.channels))
    noise = random.normal(0, 10, (count, shape.height, shape.width, shape.channels))
    return (blocks.repeat(4, axis=1).repeat(4, axis=2) + noise).round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def judge_of(tmp_path: Path) -> Callable[[Extractor, np.ndarray], Judge]:
    return partial(judge_with, tmp_path)


@pytest.fixture
def linear() -> Callable[..., Linear]:
    return Linear


@pytest.fixture
def classifier() -> Callable[..., ClassifierExtractor]:
    return random_classifier


@pytest.fixture
def images_of() -> Callable[..., np.ndarray]:
    return blobs
