"""A trained network with its sampler: what draws images, and nothing of what taught it.

A model is a folder with `model.json` (how to build the network again) and `weights.safetensors`. This file knows no
catalog: where a name's class comes from is said by the caller, since a registered model carries its own classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genforge.contracts import Draw, ImageShape, Network, Port, Sampler, WithLatents, to_stored
from genforge.files import digest_file, digest_json, read_json
from genforge.samplers.interpolation import interpolate
from genforge.settings import UserError

Find = Callable[[Literal["network", "sampler"], str], Any]  # a table and a name to the class


@dataclass
class Model:
    """A network in eval mode on its device, and the sampler that draws from it. `card` is its model.json."""

    network: Network
    sampler: Sampler
    card: dict[str, Any]

    @property
    def shape(self) -> ImageShape:
        return self.network.port.image

    @property
    def classes(self) -> int:
        """How many labels the network is conditioned on; 0: on none."""
        return self.network.port.classes

    def draw(
        self, seed: int, count: int, first: int = 0, labels: Tensor | None = None, batch_size: int = 250
    ) -> np.ndarray:
        """Images `first` to `first + count - 1` of a seed, uint8 (count, height, width, channels); points float32.

        Args:
            seed: 0..2^63-1. Image i of a seed is the same image however it is asked for.
            labels: (count,) int64. None: a conditional network gets labels in the proportion of the classes that it was
                trained on (`label_counts` of its card), each image's by its number alone.
            batch_size: images that are drawn together.
        """
        parts = list(self.batches(seed, count, first, labels, batch_size))
        empty = np.empty((0, self.shape.height, self.shape.width, self.shape.channels), self.shape.stored)
        return np.concatenate(parts) if parts else empty

    def between(self, seed: int, count: int, places: int, other_seed: int | None = None) -> np.ndarray:
        """Strips of images on the way from one to another: uint8 (count, places, height, width, channels).

        Args:
            places: images a strip, both ends included.
            other_seed: strip i leads from image i of `seed` to image i of this one; None: to image i + 1 of `seed`.

        Raises:
            UserError: the sampler knows no latents to walk between.
        """
        if not isinstance(self.sampler, WithLatents):
            raise UserError(
                f"{type(self.sampler).__module__.rpartition('.')[2]} draws images step by step and has no latents to "
                f"walk between; only models that make an image in one pass have (GANs, VAEs)"
            )
        indices, labels = torch.arange(count, dtype=torch.int64), None
        if self.classes:
            counts = np.array(self.card.get("label_counts") or [1] * self.classes)
            labels = torch.from_numpy(in_proportion(counts, count))
        first = Draw(seed, indices, labels)
        second = Draw(seed, indices + 1, labels) if other_seed is None else Draw(other_seed, indices, labels)
        images = interpolate(self.sampler, self.network, first, second, places)
        return to_stored(images.flatten(0, 1)).cpu().numpy().reshape(count, places, *self._sides)

    @property
    def _sides(self) -> tuple[int, int, int]:
        return self.shape.height, self.shape.width, self.shape.channels

    def batches(
        self, seed: int, count: int, first: int = 0, labels: Tensor | None = None, batch_size: int = 250
    ) -> Iterator[np.ndarray]:
        """`draw` in pieces of at most `batch_size` images, as they are made."""
        indices = torch.arange(first, first + count, dtype=torch.int64)
        if labels is None and self.classes:
            counts = np.array(self.card.get("label_counts") or [1] * self.classes)
            labels = torch.from_numpy(in_proportion(counts, first + count)[first:])
        for part in Draw(seed, indices, labels).split(batch_size):
            yield to_stored(self.sampler.sample(self.network, part)).cpu().numpy()


def digest(folder: Path) -> str:
    """Digest of what the images of a trained folder depend on: its weights, its network's settings and its sampler's.

    Raises:
        UserError: the folder holds no trained model.
    """
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights} does not exist; train the model first (`dvc repro`)")
    return digest_json([digest_file(weights), read_json(folder / "model.json")["exported"]])


def load(folder: Path, find: Find, device: str = "cpu") -> Model:
    """The model in `folder`.

    Args:
        find: gives the class of a network's or sampler's name; `catalog.target` in this house.

    Raises:
        UserError: the folder holds no model, or weights that are not this network's.
    """
    card, weights = read_json(folder / "model.json"), folder / "weights.safetensors"
    try:
        exported = card["exported"]
        port = Port(**{**exported["port"], "image": ImageShape(**exported["port"]["image"])})
        network = build(exported["network"], port, find)
        choice = dict(exported["sampler"])
        kind = find("sampler", choice.pop("name"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / 'model.json'} does not describe a model of genforge ({what})") from None
    try:
        network.load_state_dict(load_file(weights))
    except FileNotFoundError:
        raise UserError(f"{weights} does not exist") from None
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{weights} does not hold the weights of {folder / 'model.json'}: {error}") from None
    return Model(
        network.to(device).eval().requires_grad_(False), kind(kind.settings_type.read(choice, "sampler")), card
    )


def build(choice: Mapping[str, Any], port: Port, find: Find) -> Network:
    """The network of a choice `{name, ...settings}`, which has been checked before; inner networks first."""
    kind = find("network", choice["name"])
    settings = kind.settings_type.read({key: value for key, value in choice.items() if key != "name"}, "network")
    inner = {key: build(getattr(settings, key), kind.inner_port(key, settings, port), find) for key in kind.inner}
    return kind(settings, port, **inner)


def in_proportion(counts: np.ndarray, images: int) -> np.ndarray:
    """Labels of images 0 to `images` - 1, int64, such that every beginning of the row holds the classes as nearly in
    the proportion of `counts` as whole numbers can: with equal counts the classes cycle.

    Each image gets the class that is furthest behind its share, the first of equals. So an image's label depends on its
    number alone, not on how many are drawn.

    Args:
        counts: (classes,) how often each class is in the training split, at least one of them above 0.
    """
    shares = counts / counts.sum()
    labels = np.empty(images, np.int64)
    drawn = np.zeros(len(counts))
    for image in range(images):
        # Rounded, so that equal shares are equal and not decided by the last bit of a sum.
        labels[image] = np.argmax(np.round(shares * (image + 1) - drawn, 9))
        drawn[labels[image]] += 1
    return labels
