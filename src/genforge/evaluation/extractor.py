"""What turns images into features: the eyes of every metric.

`classifier` is a small network of our own, trained on the training split. Where it learned labels its logits name
classes; where it learned rotations it has features but no classes, and so no IS. `inception` is the network that
papers use; `dinov2` and `clip` are those of newer ones. `coordinates` takes points of the plane as they are. All others
take uint8 images of the data's own size and channels; whatever an extractor needs beyond that (scaling, resizing, three
channels for gray) it does inside its own door.

On disk an extractor is a folder with `weights.safetensors` and `card.json`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from genforge.arithmetic import tf32
from genforge.contracts import ImageShape, Port, to_network
from genforge.evaluation.card import CARD
from genforge.evaluation.features import Features
from genforge.evaluation.threads import side_by_side
from genforge.files import digest_file, read_json, replacing, write_json
from genforge.networks.classifier import Classifier
from genforge.progress import Bar
from genforge.settings import UserError

WEIGHTS = "weights.safetensors"
FEATURES, LOGITS = "features", "logits"  # layers of the classifier
# Bytes of the classifier's largest layer, on a CPU. Of twice as many, glibc gives memory back after every layer and
# fetches it anew, which took up to a third of the time on four threads.
FITTING, FEWEST_AT_ONCE = 2 * 2**20, 16
NO_CLASSES = (
    "the extractor learned rotations, because the data has no two classes; IS needs an extractor that names classes: "
    "give the images labels (one folder a class), or set extractor.name: inception"
)


class Extractor(ABC):
    """Images to features, on one device.

    name: as in params.yaml. digest: of the weights. dimensions: of the features.
    feature_layer, logits_layer: names of what is looked at; `logits_layer` is None where no classes are named, and then
    `why_no_logits` says why. resizing: what is done to images before the first layer.
    has_modes: whether logits are of the data's modes, see `coordinates.py`.
    precision: of the products inside. bfloat16 moves FID by a hundredth of its spread over sampling seeds (MNIST), is
    faster on GPUs and for Inception, and slower for the classifier on CPUs.
    cheap: whether an image more or less costs nothing to speak of. at_once: images that a CPU looks at together; more
    than its caches hold take longer, not shorter.
    """

    name: str
    digest: str
    dimensions: int
    feature_layer: str
    logits_layer: str | None
    why_no_logits: str = ""
    has_modes: bool = False
    resizing: str
    precision: str = "float32"
    cheap: bool = False
    at_once: int = 8
    device: str

    @property
    def has_logits(self) -> bool:
        return self.logits_layer is not None

    @abstractmethod
    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images as they are stored, uint8 (n, height, width, channels) or points, on the extractor's device, to
        features and logits, float32."""

    @abstractmethod
    def look_between(self, images: Tensor) -> Tensor:
        """The same features of images that are not rounded to whole levels: float (n, channels, height, width) in
        [-1, 1], on the extractor's device."""

    @torch.no_grad()
    def features(self, images: np.ndarray, batch_size: int = 250, title: str | None = None) -> Features:
        """Features of images as they are stored (n, height, width, channels), `batch_size` at a time; on a CPU no more
        than suit it, and a batch on each of PyTorch's threads: the same bits on any number of them.

        Args:
            title: shows progress under this title; None shows none.

        Raises:
            ValueError: some feature is not finite. Precision and recall would not notice, and look normal.
        """
        batch_size = min(batch_size, self.at_once) if self.device == "cpu" else batch_size
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        seen: list[tuple[Tensor, Tensor | None]] = []
        threads = side_by_side() if self.device == "cpu" else contextlib.nullcontext(map)
        with _progress(title, len(images)) as bar, plain_float32(), threads as mapped:
            for found in mapped(self._look_at, batches):
                seen.append(found)
                bar.advance(len(found[0]))
        features = torch.cat([found for found, _ in seen])
        logits = torch.cat([found for _, found in seen if found is not None]) if self.has_logits else None
        for layer, values in ((self.feature_layer, features), (self.logits_layer, logits)):
            if values is not None and not torch.isfinite(values).all():
                raise ValueError(f"layer {layer!r} of extractor {self.name} gave values that are not finite")
        return Features(features.numpy(), None if logits is None else logits.numpy())

    @torch.no_grad()
    def _look_at(self, images: np.ndarray) -> tuple[Tensor, Tensor | None]:
        half = torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with half:
            batch = np.array(images)  # a copy: tensors refuse memory that is read only
            features, logits = self.look(torch.from_numpy(batch).to(self.device))
        return features.float().cpu(), None if logits is None else logits.float().cpu()


class ClassifierExtractor(Extractor):
    """Our own classifier: features are its penultimate layer."""

    name = "classifier"
    feature_layer = FEATURES
    resizing = "none: images are seen at their own size"
    cheap = True

    def __init__(self, network: Classifier, digest: str, names_classes: bool, device: str = "cpu") -> None:
        self.network = network.to(device).eval().requires_grad_(False)
        self.digest, self.device = digest, device
        self.dimensions = network.dimensions
        self.at_once = max(FEWEST_AT_ONCE, FITTING // (4 * network.largest))
        self.logits_layer = LOGITS if names_classes else None
        self.why_no_logits = "" if names_classes else NO_CLASSES

    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        # One layout in memory, whoever asks: for another one other kernels are taken, which round differently. A copy,
        # because an image of one channel passes for contiguous in both layouts; of bytes, which are a quarter as many.
        levels = images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
        features = self.network.features(to_network(levels.permute(0, 2, 3, 1)))
        return features, self.network.head(features) if self.has_logits else None

    def look_between(self, images: Tensor) -> Tensor:
        return self.network.features(images)


def write_classifier(folder: Path, network: Classifier, *, names_classes: bool, about: Mapping[str, Any]) -> None:
    """Write a trained classifier and its card into `folder`. `about` goes onto the card: accuracy, settings, data."""
    digest = write_weights(folder, network.state_dict())
    port = {**vars(network.port), "image": vars(network.port.image)}
    extractor = ClassifierExtractor(network, digest, names_classes)
    built = {"width": network.dimensions // 4, "port": port}
    write_card(folder, extractor, {"kind": "labels" if names_classes else "rotations", "network": built, **about})


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> str:
    """Write weights into `folder` and return their digest."""
    with replacing(folder / WEIGHTS) as file:
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}))
    return digest_file(folder / WEIGHTS)


def write_card(folder: Path, extractor: Extractor, about: Mapping[str, Any]) -> None:
    card = {
        "name": extractor.name,
        "digest": extractor.digest,
        "dimensions": extractor.dimensions,
        "feature_layer": extractor.feature_layer,
        "logits_layer": extractor.logits_layer,
        "has_logits": extractor.has_logits,
        "why_no_logits": extractor.why_no_logits or None,
        "resizing": extractor.resizing,
        "precision": extractor.precision,
    }
    write_json(folder / CARD, {**card, **about})


def load_extractor(folder: Path, device: str = "cpu") -> Extractor:
    """The extractor that the step `extractor` left in `folder`.

    Raises:
        UserError: there is none, or its weights are not those that its card names.
    """
    card = read_json(folder / CARD)
    weights, digest = _read_weights(folder, card["digest"])
    if card["name"] == "classifier":
        extractor = _load_classifier(folder, card, weights, digest, device)
    elif card["name"] == "coordinates":
        from genforge.evaluation.coordinates import CoordinatesExtractor

        extractor = CoordinatesExtractor(weights, digest, device)
    else:
        extractor = published(card["name"]).make(weights, digest, device)
    extractor.precision = card["precision"]
    return extractor


def _load_classifier(
    folder: Path, card: Mapping[str, Any], weights: Mapping[str, Tensor], digest: str, device: str
) -> Extractor:
    port = card["network"]["port"]
    network = Classifier(
        Classifier.settings_type.read({"width": card["network"]["width"]}, f"{folder / CARD}: network"),
        Port(**{**port, "image": ImageShape(**port["image"])}),
    )
    network.load_state_dict(weights)
    return ClassifierExtractor(network, digest, names_classes=card["has_logits"], device=device)


@dataclass(frozen=True)
class Published:
    """An extractor that others have trained.

    make: it, from weights, their digest and a device. read: its weights, from a file or from nothing but the network.
    """

    make: Callable[[Mapping[str, Tensor], str, str], Extractor]
    read: Callable[[Path | None], dict[str, Tensor]]


def published(name: str) -> Published:
    """Raises UserError when there is none of this name."""
    # These bring torch-fidelity, which takes seconds.
    if name == "inception":
        from genforge.evaluation.inception import InceptionExtractor, inception_weights

        return Published(InceptionExtractor, inception_weights)
    if name == "clip":
        from genforge.evaluation.clip import ClipExtractor, clip_weights

        return Published(ClipExtractor, clip_weights)
    if name == "dinov2":
        from genforge.evaluation.dinov2 import Dinov2Extractor, dinov2_weights

        return Published(Dinov2Extractor, dinov2_weights)
    raise UserError(f"extractor: none is called {name!r}; there are classifier, inception, dinov2 and clip")


def _read_weights(folder: Path, expected: str) -> tuple[dict[str, Tensor], str]:
    remedy = "make them again with `genforge step extractor`"
    try:
        digest = digest_file(folder / WEIGHTS)
        if digest != expected:
            raise UserError(f"{folder / WEIGHTS} has digest {digest}, but its card says {expected}; {remedy}")
        return load_file(folder / WEIGHTS), digest
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} does not exist; {remedy}") from None
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({error}); {remedy}") from None


class _NoBar:
    def advance(self, count: int) -> None:
        return None


@contextlib.contextmanager
def _progress(title: str | None, total: int) -> Iterator[Bar | _NoBar]:
    if title is None:
        yield _NoBar()
    else:
        with Bar(title, total, "images") as bar:
            yield bar


@contextlib.contextmanager
def plain_float32() -> Iterator[None]:
    """Full float32 on GPUs too, where convolutions round their inputs to 10 bits (TF32) unless told otherwise."""
    with tf32(False), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
