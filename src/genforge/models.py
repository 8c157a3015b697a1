"""A trained network with its sampler: what draws images, and nothing of what taught it.

A model is a folder with `model.json` (how to build the networks again) and `weights.safetensors`; where there are
companions (an encoder, say), `companions.safetensors` holds theirs. Drawing needs no companion, so that a registered
model carries none. This file knows no catalog: where a name's class comes from is said by the caller, since a
registered model carries its own classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genforge.contracts import (
    Density,
    Draw,
    ImageShape,
    Network,
    Port,
    Sampler,
    WithLatents,
    WithTrajectory,
    to_pixels,
    to_stored,
)
from genforge.files import read_json
from genforge.samplers.interpolation import interpolate
from genforge.settings import UserError
from genforge.trained_folder import digest as digest  # a registered model asks this file for it

Find = Callable[[Literal["network", "sampler", "density"], str], Any]  # a table and a name to the class
COMPANIONS = "companions.safetensors"  # tensors by "<role>.<name>"


@dataclass
class Model:
    """A network in eval mode on its device, and the sampler that draws from it. `card` is its model.json.

    companions: networks by role, where they were asked for. density: what tells likelihoods, where the recipe names one
    and companions were asked for.
    """

    network: Network
    sampler: Sampler
    card: dict[str, Any]
    companions: dict[str, Network] = field(default_factory=dict)
    density: Density | None = None

    @property
    def networks(self) -> dict[str, Network]:
        """The network and its companions, by role: what a density is asked with."""
        return {self.card.get("role", "network"): self.network, **self.companions}

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
        for part in self.request(seed, count, first, labels).split(batch_size):
            yield to_stored(self.sampler.sample(self.network, part)).cpu().numpy()

    def trajectory(self, seed: int, count: int, moments: int, labels: Tensor | None = None) -> np.ndarray | None:
        """How images 0 to `count` - 1 of a seed come to be, uint8 (count, 2, m, height, width, channels): what is there
        after a step, scaled as if it had the variance of an image, and the clean image that the step expected; at the
        m <= `moments` steps spread evenly over all of them, the last one included. None where they are drawn in one
        pass, or are points."""
        if not isinstance(self.sampler, WithTrajectory) or self.shape.is_point:
            return None
        states = []
        for state in self.sampler.trajectory(self.network, self.request(seed, count, 0, labels)):
            noisy = to_pixels(state.noisy / (1 + state.sigma**2) ** 0.5)
            states.append(torch.stack([noisy, to_pixels(state.clean)], dim=1).cpu())  # (count, 2, h, w, c)
        chosen = sorted({round(place) for place in np.linspace(0, len(states) - 1, min(moments, len(states)))})
        return torch.stack([states[place] for place in chosen], dim=2).numpy()

    def request(self, seed: int, count: int, first: int = 0, labels: Tensor | None = None) -> Draw:
        """What `draw` asks of the sampler."""
        indices = torch.arange(first, first + count, dtype=torch.int64)
        if labels is None and self.classes:
            counts = np.array(self.card.get("label_counts") or [1] * self.classes)
            labels = torch.from_numpy(in_proportion(counts, first + count)[first:])
        return Draw(seed, indices, labels)


def load(folder: Path, find: Find, device: str = "cpu", companions: bool = False) -> Model:
    """The model in `folder`.

    Args:
        find: gives the class of a network's, sampler's or density's name; `catalog.target` in this house.
        companions: load them too, and the density; drawing images needs neither.

    Raises:
        UserError: the folder holds no model, or weights that are not this network's.
    """
    card, weights = read_json(folder / "model.json"), folder / "weights.safetensors"
    try:
        exported = card["exported"]
        network = _built(exported, find)
        sampler = _part("sampler", exported["sampler"], find)
        beside = card.get("companions", {}) if companions else {}
        others = {role: _built(described, find) for role, described in beside.items()}
        density = _part("density", card["density"], find) if companions and card.get("density") else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / 'model.json'} does not describe a model of genforge ({what})") from None
    _fill(network, weights)
    if others:
        _fill(nn.ModuleDict(others), folder / COMPANIONS)
    for one in (network, *others.values()):
        one.to(device).eval().requires_grad_(False)
    return Model(network, sampler, card, others, density)


def weights_of_companions(networks: Mapping[str, Network]) -> dict[str, Tensor]:
    """The content of the companions' file, from the companions by role."""
    return dict(nn.ModuleDict(dict(networks)).state_dict())


def _built(described: Mapping[str, Any], find: Find) -> Network:
    """A network from its description: its choice, and its port."""
    port = Port(**{**described["port"], "image": ImageShape(**described["port"]["image"])})
    return build(described["network"], port, find)


def _part(table: Literal["sampler", "density"], choice: Mapping[str, Any], find: Find) -> Any:
    kind = find(table, choice["name"])
    return kind(kind.settings_type.read({key: value for key, value in choice.items() if key != "name"}, table))


def _fill(module: nn.Module, weights: Path) -> None:
    try:
        module.load_state_dict(load_file(weights))
    except FileNotFoundError:
        raise UserError(f"{weights} does not exist") from None
    except (RuntimeError, SafetensorError) as error:
        where = weights.with_name("model.json")
        raise UserError(f"{weights} does not hold the weights of {where}: {error}") from None


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
