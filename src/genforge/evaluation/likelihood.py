"""How likely held-out images are under a model, in nats an image and in bits per dimension.

Bits per dimension are -log2 of an image's probability over the number of its values: 8 for noise that knows nothing of
8-bit images, 0 for certainty. Only numbers of the same images and of the same kind of image are compared: what is told
of binarised images is no match for what is told of 8-bit ones. Exact numbers and bounds do stand in one column, each
marked: a lower bound on the likelihood is an upper bound on the bits. How they are measured: `log_likelihood.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from genforge.evaluation.protocol import ProtocolMismatch
from genforge.shapes import EIGHT_BIT

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
