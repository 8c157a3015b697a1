"""How strange an image is to a trained model: scores of which higher is stranger, and how well they tell sets apart.

A likelihood alone is not enough. It is the higher the simpler an image is, whatever it shows: models give images of
another kind, and smooth or empty ones, more likelihood than those they learned (Nalisnick et al. 2019, "Do deep
generative models know what they don't know?"). Two scores mend that. `complexity` takes off what a general compressor
needs for the same image (Serra et al. 2020, "Input complexity and out-of-distribution detection", eq. 3), which is a
likelihood ratio as in Ren et al. 2019. `typicality` asks whether an image is as likely as images of its kind are, and
finds fault with one that is likelier, too (Nalisnick et al. 2019b, "Detecting out-of-distribution inputs to deep
generative models using typicality", with batches of one image).
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genforge import randomness
from genforge.contracts import EIGHT_BIT, Density, Network, to_network
from genforge.evaluation.latent import LatentSpace
from genforge.evaluation.log_likelihood import log_likelihoods
from genforge.networks.denoiser import Denoiser
from genforge.settings import UserError

NOISE = 0.5  # noise level under which a denoiser reconstructs: detail of an eighth of an image's range is gone
TOGETHER = 250  # images that are looked at at once


@runtime_checkable
class WithEnergy(Protocol):
    """A network that gives images an energy: the less, the likelier."""

    def energy(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n,), of images (n, c, h, w) in [-1, 1]."""


@dataclass(frozen=True)
class Observer:
    """A trained model that looks at images.

    networks: by role, in evaluation mode, on `device`. role: of the one that draws. density: where there is one.
    label_counts: how often each class was in training; empty for a model without labels. seed: of all noise.
    """

    name: str
    networks: Mapping[str, Network]
    role: str
    density: Density | None
    label_counts: tuple[int, ...]
    device: str = "cpu"
    seed: int = 0

    @property
    def exported(self) -> Network:
        return self.networks[self.role]


class Score(ABC):
    """One way to say how strange an image is.

    Class attributes: `title` and `unit` for tables. Attribute `how`: in words, beside the numbers.
    """

    title: ClassVar[str]
    unit: ClassVar[str]
    how: str

    def __init__(self, observer: Observer) -> None:
        """Raises UserError when the model cannot give this score, and says which can."""
        self.observer = observer

    def fit(self, images: np.ndarray) -> None:
        """Look at images of the training split, uint8 (n, h, w, c), where the score asks what is usual."""
        return None

    @abstractmethod
    def of(self, images: np.ndarray) -> np.ndarray:
        """Of images, uint8 (n, h, w, c): float64 (n,), finite."""


class Likelihood(Score):
    """-log2 of the image's probability, a value: the bits per dimension that the model spends on it."""

    title, unit = "likelihood", "bits per dimension"

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer)
        if observer.density is None:
            raise UserError(
                f"{observer.name} tells no likelihoods, since its recipe names no density; choose a model that does "
                f"(--model), such as one of the recipes pixelcnn or gaussian, or another score (--by reconstruction)"
            )
        self.density = observer.density
        self.how = self.density.how

    def of(self, images: np.ndarray) -> np.ndarray:
        values = math.prod(images.shape[1:])
        parts = [self._nats(images[at : at + TOGETHER], at) for at in range(0, len(images), TOGETHER)]
        told = np.concatenate(parts) if parts else np.empty(0)
        if not np.isfinite(told).all():
            raise UserError(f"{self.observer.name} gives some image a likelihood that is not finite; train it again")
        return -told / (math.log(2) * values)

    def _nats(self, images: np.ndarray, first: int) -> np.ndarray:
        """Log-likelihoods; under a conditional model, of any class: the sum over all, by how frequent they are."""
        observer, counts = self.observer, np.array(self.observer.label_counts, np.float64)

        def told(labels: np.ndarray | None) -> np.ndarray:
            return log_likelihoods(
                self.density, observer.networks, images, labels, observer.seed, observer.device, first
            )

        if not len(counts):
            return told(None)
        shares = np.log(counts[counts > 0] / counts.sum())
        joint = [
            share + told(np.full(len(images), label))
            for share, label in zip(shares, np.flatnonzero(counts), strict=True)
        ]
        return np.logaddexp.reduce(joint, axis=0)


class Complexity(Likelihood):
    """The bits that the model spends on an image less those that a general compressor spends."""

    title = "likelihood less complexity"

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer)
        if observer.exported.port.image.is_point:
            raise UserError("no compressor is there for points of the plane; choose another score (--by typicality)")
        if (of := self.density.of(observer.networks)) != EIGHT_BIT:
            raise UserError(
                f"{observer.name} tells how likely {of} are, and the compressor shortens {EIGHT_BIT}: bits of the one "
                f"cannot be taken from those of the other; choose a model of {EIGHT_BIT} (--model), such as one of the "
                f"recipe pixelcnn, or another score (--by typicality)"
            )
        self.how = f"{self.density.how}; less the image's length as PNG (Serra et al. 2020)"

    def of(self, images: np.ndarray) -> np.ndarray:
        return super().of(images) - compressed_bits(images) / math.prod(images.shape[1:])


class Typicality(Likelihood):
    """How far the bits of an image are from those that images of the training split take on the average."""

    title = "typicality"
    usual: float

    def fit(self, images: np.ndarray) -> None:
        self.usual = float(super().of(images).mean())
        self.how = (
            f"{self.density.how}; distance from {self.usual:.3f}, the mean of {len(images)} training images "
            f"(Nalisnick et al. 2019b, batches of one)"
        )

    def of(self, images: np.ndarray) -> np.ndarray:
        return np.abs(super().of(images) - self.usual)


class Reconstruction(Score):
    """The squared error with which the model gives the image back: an autoencoder by its code (An & Cho 2015), a
    denoiser out of noise (after Wyatt et al. 2022, AnoDDPM)."""

    title, unit = "reconstruction", "mean squared error of values in [-1, 1]"

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer)
        if isinstance(observer.exported, Denoiser):
            self.how = f"denoised from noise of standard deviation {NOISE:g}"
        elif "encoder" in observer.networks:
            self.how = "encoded and decoded, in 8 bits"
        else:
            raise UserError(
                f"{observer.name} reconstructs nothing: it has neither an encoder nor a denoiser; choose an "
                f"autoencoder or a diffusion model (--model), or another score (--by likelihood)"
            )
        if observer.label_counts:
            raise UserError(
                f"{observer.name} reconstructs an image given its label, which is not known here; choose a model that "
                f"is not conditional (--model)"
            )

    def of(self, images: np.ndarray) -> np.ndarray:
        errors = []
        for at in range(0, len(images), TOGETHER):
            part = np.array(images[at : at + TOGETHER])
            clean = to_network(torch.from_numpy(part))
            errors.append((self._reconstructed(part, clean, at) - clean).double().square().flatten(1).mean(1).numpy())
        return np.concatenate(errors) if errors else np.empty(0)

    @torch.no_grad()
    def _reconstructed(self, images: np.ndarray, clean: Tensor, first: int) -> Tensor:
        """What the model gives back of images, uint8 (n, h, w, c), which are `clean` for networks: like these."""
        network, device = self.observer.exported, self.observer.device
        if not isinstance(network, Denoiser):
            back = LatentSpace.of(self.observer.networks).reconstruct(images)
            return to_network(torch.from_numpy(back))
        noise = randomness.normal(self.observer.seed, torch.arange(first, first + len(clean)), tuple(clean.shape[1:]))
        sigma = torch.full((len(clean),), NOISE, device=device)
        return network((clean + NOISE * noise).to(device), sigma).cpu()


class Energy(Score):
    """The energy that the model gives an image."""

    title, unit = "energy", "nats, up to a constant"

    def __init__(self, observer: Observer) -> None:
        super().__init__(observer)
        if not isinstance(observer.exported, WithEnergy):
            raise UserError(
                f"{observer.name} has no energy: that is what energy-based models have; choose one (--model), or "
                f"another score (--by likelihood)"
            )
        self.energy, self.how = observer.exported.energy, "exact, not normalised"

    @torch.no_grad()
    def of(self, images: np.ndarray) -> np.ndarray:
        parts = [
            self.energy(to_network(torch.from_numpy(np.array(images[at : at + TOGETHER]))).to(self.observer.device))
            for at in range(0, len(images), TOGETHER)
        ]
        return torch.cat(parts).double().cpu().numpy() if parts else np.empty(0)


SCORES: dict[str, type[Score]] = {
    "likelihood": Likelihood,
    "complexity": Complexity,
    "typicality": Typicality,
    "reconstruction": Reconstruction,
    "energy": Energy,
}


def compressed_bits(images: np.ndarray) -> np.ndarray:
    """Length of each image as a PNG file in bits, float64 (n,): uint8 (n, h, w, c)."""
    lengths = np.empty(len(images))
    for place, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG", optimize=True)
        lengths[place] = 8 * file.tell()
    return lengths


def auroc(strange: np.ndarray, normal: np.ndarray) -> tuple[float, float]:
    """The probability that an image of the first set scores higher than one of the second, ties being a half: 1 where
    the score tells the sets apart, 0.5 where it knows nothing, 0 where it has them the wrong way round.

    Args:
        strange, normal: scores, (n,) and (m,), two of each at least.

    Returns:
        The probability, and its standard error (DeLong, DeLong & Clarke-Pearson 1988, eq. 5).
    """
    above_normal = _share_below(strange, normal)  # of each strange one: the share of normal ones below it
    below_strange = 1 - _share_below(normal, strange)
    variance = above_normal.var(ddof=1) / len(strange) + below_strange.var(ddof=1) / len(normal)
    return float(above_normal.mean()), float(variance**0.5)


def p_values(scores: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Of each score: the probability that an image like the normal ones scores as high or higher, which is the share of
    them that do, the image itself counted among them (Vovk et al. 2005; valid for any score)."""
    ordered = np.sort(normal)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (1 + len(ordered))


def _share_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, side="left")
    not_above = np.searchsorted(ordered, scores, side="right")
    return (below + not_above) / (2 * len(ordered))
