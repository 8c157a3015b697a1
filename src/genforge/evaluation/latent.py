"""The latent space of a model that has an encoder, looked at: images to codes and back, and ways through the codes.

A code is the mean of a variational encoder's posterior, or what a plain encoder gives. Everything here is a function of
the networks and the images alone: nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genforge.contracts import Network, to_network, to_stored
from genforge.networks.latent_prior import LatentPrior
from genforge.settings import UserError

AT_ONCE = 500  # images that go through a network together
REACH = 2.5  # standard deviations of a dimension that a traversal goes to either side
COLUMNS, MOST_ROWS = 9, 10  # of a picture


@dataclass(frozen=True)
class LatentSpace:
    """An encoder and a decoder, in evaluation mode, on one device. size: numbers in a code."""

    encoder: Network
    decoder: Network
    size: int

    @classmethod
    def of(cls, networks: Mapping[str, Network]) -> LatentSpace:
        """The latent space of a model's networks, by role.

        Raises:
            UserError: they have no encoder.
        """
        encoder, decoder = networks.get("encoder"), networks.get("decoder")
        if encoder is None or decoder is None or decoder.kind != "latent_to_image":
            raise UserError(
                "this model has no encoder, so that images have no codes in it; its recipe should be one with an "
                "encoder (`autoencoder`, `vae`, `vae-mlp`, `beta-vae`, `conditional-vae`)"
            )
        before = 1 if isinstance(decoder, LatentPrior) else 0  # the number that picks a component of the prior
        return cls(encoder, decoder, decoder.port.latent_size - before)

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @torch.no_grad()
    def encode(self, images: np.ndarray, labels: np.ndarray | None = None) -> Tensor:
        """Codes, float32 (n, size), of images as they are on disk, uint8 (n, height, width, channels) or points; labels
        int64 (n,) for a conditional one."""
        parts = []
        for start in range(0, len(images), AT_ONCE):
            pixels = to_network(torch.from_numpy(np.array(images[start : start + AT_ONCE])).to(self.device))
            parts.append(self.encoder(pixels, self._labels(labels, start)).float()[:, : self.size])
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: np.ndarray | None = None) -> np.ndarray:
        """Images as they are on disk, uint8 (n, height, width, channels) or points float32, of codes (n, size)."""
        parts = []
        for start in range(0, len(codes), AT_ONCE):
            some, chosen = codes[start : start + AT_ONCE].to(self.device), self._labels(labels, start)
            decoder = self.decoder.decode if isinstance(self.decoder, LatentPrior) else self.decoder
            parts.append(to_stored(decoder(some, chosen)).cpu().numpy())
        return np.concatenate(parts)

    def reconstruct(self, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """What is left of images after their codes, in their shape."""
        return self.decode(self.encode(images, labels), labels)

    def traverse(self, code: Tensor, dimension: int, values: Tensor, labels: np.ndarray | None = None) -> np.ndarray:
        """Images of one code (size,) with the number at `dimension` replaced by each of `values` (k,): (k, ...).

        Raises:
            UserError: there is no such dimension.
        """
        if not 0 <= dimension < self.size:
            raise UserError(f"dimension is {dimension}; this latent space has 0 to {self.size - 1}")
        codes = code.repeat(len(values), 1)
        codes[:, dimension] = values.to(codes)
        return self.decode(codes, labels)

    def interpolate(self, first: Tensor, second: Tensor, steps: int, labels: np.ndarray | None = None) -> np.ndarray:
        """`steps` images of codes evenly along the straight line from `first` to `second`, (size,) both, ends included;
        labels (steps,)."""
        places = torch.linspace(0, 1, steps, device=first.device)[:, None]
        return self.decode(first + places * (second - first), labels)

    def shift(self, codes: Tensor, less: Tensor, plus: Tensor, labels: np.ndarray | None = None) -> np.ndarray:
        """Arithmetic of codes: the images of code - less + plus, (n, size) and two that broadcast."""
        return self.decode(codes - less + plus, labels)

    def _labels(self, labels: np.ndarray | None, start: int) -> Tensor | None:
        if labels is None or not self.decoder.port.classes:
            return None
        return torch.from_numpy(np.asarray(labels[start : start + AT_ONCE])).to(self.device)


@dataclass(frozen=True)
class Strip:
    """A picture of a latent space: images uint8 (n, height, width, channels), laid out in rows of `columns`."""

    images: np.ndarray
    columns: int
    words: str


def strips(space: LatentSpace, images: np.ndarray, labels: np.ndarray | None, classes: int) -> dict[str, Strip]:
    """Pictures of a latent space by name: reconstructions, traversals, interpolations, and arithmetic.

    Args:
        images: held-out ones, uint8 (n, height, width, channels), at least 8. The first are shown; all tell how far
            codes reach. labels: int64 (n,), or None. classes: how many labels there are.
    """
    codes = space.encode(images, labels)
    pictures = {
        "reconstructions": _reconstructions(space, images[: 2 * COLUMNS], labels),
        "traversals": _traversals(space, codes, labels),
        "interpolations": _interpolations(space, codes, labels),
    }
    if labels is not None and classes > 1:
        pictures["arithmetic"] = _other_classes(space, images, codes, labels, classes)
    else:
        pictures["arithmetic"] = _sums(space, images, codes)
    return pictures


def _reconstructions(space: LatentSpace, images: np.ndarray, labels: np.ndarray | None) -> Strip:
    back = space.reconstruct(images, None if labels is None else labels[: len(images)])
    rows = [part[start : start + COLUMNS] for start in range(0, len(images), COLUMNS) for part in (images, back)]
    return Strip(np.concatenate(rows), COLUMNS, "held-out images, and below each what is left of it after its code")


def _traversals(space: LatentSpace, codes: Tensor, labels: np.ndarray | None) -> Strip:
    spread, middle = codes.std(dim=0), codes.mean(dim=0)
    liveliest = spread.argsort(descending=True)[:MOST_ROWS].tolist()
    same = None if labels is None else np.repeat(labels[:1], COLUMNS)
    rows = []
    for dimension in liveliest:
        way = torch.linspace(-REACH, REACH, COLUMNS, device=codes.device)
        rows.append(space.traverse(codes[0], dimension, middle[dimension] + spread[dimension] * way, same))
    numbers = ", ".join(map(str, liveliest))
    words = (
        f"one image's code with one dimension changed a row, {REACH:g} standard deviations of all codes to either "
        f"side; dimensions from the liveliest: {numbers}"
    )
    return Strip(np.concatenate(rows), COLUMNS, words)


def _interpolations(space: LatentSpace, codes: Tensor, labels: np.ndarray | None) -> Strip:
    rows = []
    for one in range(min(6, len(codes) // 2)):
        same = None if labels is None else np.repeat(labels[2 * one : 2 * one + 1], COLUMNS)
        rows.append(space.interpolate(codes[2 * one], codes[2 * one + 1], COLUMNS, same))
    return Strip(np.concatenate(rows), COLUMNS, "straight lines from the code of one held-out image to that of another")


def _other_classes(space: LatentSpace, images: np.ndarray, codes: Tensor, labels: np.ndarray, classes: int) -> Strip:
    """Images as they would be in each other class. Where the decoder takes labels, by the label; else by arithmetic."""
    present = [label for label in range(classes) if (labels == label).any()][:MOST_ROWS]
    centres = {label: codes[torch.from_numpy(labels == label).to(codes.device)].mean(dim=0) for label in present}
    conditional = bool(space.decoder.port.classes)
    rows = []
    for number in (int(np.flatnonzero(labels == label)[0]) for label in present):
        code = codes[number].repeat(len(present), 1)
        if conditional:
            moved = space.decode(code, np.array(present, np.int64))
        else:
            own = centres[int(labels[number])]
            moved = space.shift(code, own, torch.stack([centres[label] for label in present]))
        rows += [images[number : number + 1], moved]
    way = "with another label" if conditional else "less the mean code of its class, plus that of another"
    words = f"a held-out image of each class, then its code {way}, class by class"
    return Strip(np.concatenate(rows), len(present) + 1, words)


def _sums(space: LatentSpace, images: np.ndarray, codes: Tensor) -> Strip:
    rows = []
    for one in range(min(6, len(codes) // 3)):
        first, less, plus = range(3 * one, 3 * one + 3)
        result = space.shift(codes[first : first + 1], codes[less], codes[plus])
        rows += [images[[first, less, plus]], result]
    return Strip(
        np.concatenate(rows), 4, "the code of the first image, less that of the second, plus that of the third"
    )
