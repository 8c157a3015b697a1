"""How likely held-out images are under a model, in nats an image and in bits per dimension.

Bits per dimension are -log2 of an image's probability over the number of its values: 8 for noise that knows nothing of
8-bit images, 0 for certainty. Only numbers of the same images and of the same kind of image are compared: what is told
of binarised images is no match for what is told of 8-bit ones. Exact numbers and bounds do stand in one column, each
marked: a lower bound on the likelihood is an upper bound on the bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch

from genforge.contracts import EIGHT_BIT, Density, Draw, ImageShape, Network, to_network
from genforge.evaluation.protocol import ProtocolMismatch
from genforge.files import digest_bytes

SPLIT = "test"
GIVEN_LABELS = ", given their classes"  # of a conditional model: whoever knows the class finds its images likelier
QUANTILE = 1.959963984540054  # of a standard normal, for intervals of 95%


@dataclass(frozen=True)
class LikelihoodProtocol:
    """What has to be the same for two likelihoods to be compared.

    of: what is likely or not, such as "8-bit images". split, digest, images: which images. values: numbers in one.
    seed: of the density's noise and of the choice of images.
    """

    of: str
    split: str
    digest: str
    images: int
    values: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Likelihood:
    """A model's likelihood of held-out images.

    nats: mean log-likelihood of an image. bits: per dimension, the mean over images. ..._error: standard errors of
    these means over images. exact: False where `nats` is a lower bound, and `bits` an upper one. how: in words.
    """

    nats: float
    nats_error: float
    bits: float
    bits_error: float
    exact: bool
    how: str
    protocol: LikelihoodProtocol

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "protocol": LikelihoodProtocol(**value["protocol"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def bits_of_eight(self) -> bool:
        """Whether these are the bits per dimension that papers on 8-bit images give."""
        return self.protocol.of == EIGHT_BIT

    def in_bits(self) -> str:
        """`≤ 1.234 ± 0.012`: bits per dimension and half of the interval that holds the mean over all such images with
        95%; and of what, where it is not of 8-bit images."""
        text = f"{'' if self.exact else '≤ '}{self.bits:.3f} ± {QUANTILE * self.bits_error:.3f}"
        return text if self.bits_of_eight else f"{text} ({self.protocol.of})"


def measure(
    density: Density,
    networks: Mapping[str, Network],
    images: np.ndarray,
    labels: np.ndarray | None,
    seed: int,
    device: str = "cpu",
    batch_size: int = 250,
) -> Likelihood:
    """The likelihood of held-out images.

    Args:
        networks: by role, in evaluation mode, on `device`.
        images: uint8 (n, height, width, channels), or points float32 (n, 1, 1, 2). labels: int64 (n,) for a conditional
            model, or None.

    Raises:
        ValueError: a log-likelihood is not a number, or infinite: names the first such image.
    """
    told = np.concatenate(
        [
            log_likelihoods(density, networks, images[start : start + batch_size], labels_at, seed, device, start)
            for start in range(0, len(images), batch_size)
            for labels_at in [None if labels is None else labels[start : start + batch_size]]
        ]
    )
    if not np.isfinite(told).all():
        first = int(np.flatnonzero(~np.isfinite(told))[0])
        raise ValueError(
            f"the log-likelihood of {np.count_nonzero(~np.isfinite(told))} of {len(told)} images is not finite, first "
            f"of image {first}: {told[first]}"
        )
    values = math.prod(images.shape[1:])
    nats, error = float(told.mean()), float(told.std(ddof=1) / len(told) ** 0.5)
    scale = math.log(2) * values
    of = density.of(networks) + (GIVEN_LABELS if labels is not None else "")
    how = density.how_of(ImageShape(images.shape[3], *images.shape[1:3]))
    protocol = LikelihoodProtocol(
        of, SPLIT, digest_bytes(np.ascontiguousarray(images).tobytes()), len(images), values, seed
    )
    return Likelihood(nats, error, -nats / scale, error / scale, density.exact, how, protocol)


def log_likelihoods(
    density: Density,
    networks: Mapping[str, Network],
    images: np.ndarray,
    labels: np.ndarray | None,
    seed: int,
    device: str = "cpu",
    first: int = 0,
) -> np.ndarray:
    """Of each image, nats, float64 (n,). Arguments as of `measure`; `first` is the number of the first image."""
    draw = Draw(
        seed, torch.arange(first, first + len(images)), None if labels is None else torch.from_numpy(labels).to(device)
    )
    pixels = to_network(torch.from_numpy(np.array(images)).to(device))
    return density.log_likelihood(networks, pixels, draw).double().cpu().numpy()


def require_comparable(told: Iterable[tuple[str, Likelihood]]) -> None:
    """Of those that are told of the same kind of image, all have to be of the same images.

    Raises:
        ProtocolMismatch: two are not; says in what they differ.
    """
    firsts: dict[str, tuple[str, Likelihood]] = {}
    for owner, likelihood in told:
        other, before = firsts.setdefault(likelihood.protocol.of, (owner, likelihood))
        ours, theirs = before.protocol.to_json(), likelihood.protocol.to_json()
        if differing := [key for key in ours if ours[key] != theirs[key]]:
            lines = "\n".join(f"  {key}: {ours[key]!r} against {theirs[key]!r}" for key in differing)
            raise ProtocolMismatch(
                f"the likelihoods of {other} and {owner} are of different images, so they cannot be compared:\n"
                f"{lines}\nTell both in the same way (`dvc repro`)."
            )
