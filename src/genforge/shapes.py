"""What images are like, and what is asked of networks: plain facts, which are had without torch.

To import torch takes more than a second. Steps that move files, decode images or sort a table compute nothing: they
import this file, and not `contracts.py`, where tensors begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genforge.settings import UserError

EIGHT_BIT, POINTS = "8-bit images", "points of the plane"  # what a likelihood may be of
CELL = 2 / 255  # of [-1, 1]: how far apart the levels of 8-bit images lie
SMALLEST, LARGEST, MULTIPLE = 8, 64, 4  # pixels: image sides that the networks of the catalog take


@dataclass(frozen=True)
class ImageShape:
    """Channels (1 or 3), height and width in pixels; or `POINT`."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Number of values in one image."""
        return self.channels * self.height * self.width

    @property
    def is_point(self) -> bool:
        """Whether these are no images but points of the plane, real numbers that are not rounded to levels."""
        return self == POINT

    @property
    def stored(self) -> str:
        """Name of the type that values have on disk."""
        return "float32" if self.is_point else "uint8"

    def check(self) -> None:
        """Raises UserError unless networks of the catalog can take this shape."""
        if self.is_point:
            return
        if self.channels not in (1, 3):
            raise UserError(f"images have {self.channels} channels; genforge trains on 1 (gray) or 3 (RGB)")
        for name, side in (("height", self.height), ("width", self.width)):
            if not SMALLEST <= side <= LARGEST or side % MULTIPLE:
                raise UserError(
                    f"image {name} is {side}; it should be {SMALLEST} to {LARGEST} and a multiple of {MULTIPLE}: "
                    f"set data.image_size to resize"
                )


POINT = ImageShape(2, 1, 1)
Taught = Literal["score", "consistency"]  # what the answers of a denoiser are
PortKind = Literal["latent_to_image", "image_to_vector", "denoiser", "backbone", "pixels", "autoregressive", "energy"]


@dataclass(frozen=True)
class Port:
    """What an objective asks of a network that plays one of its roles.

    kind `latent_to_image`: forward(latent (n, latent_size), labels (n,) or None) -> (n, channels, height, width).
    kind `image_to_vector`: forward(images (n, c, h, w), labels or None) -> (n, outputs).
    kind `denoiser`: forward(noisy (n, c, h, w), sigma (n,), labels or None) -> an estimate of the clean images, where
        noisy = clean + sigma * standard normal noise (the convention of Karras et al. 2022). Which estimate, its
        `taught` tells: the mean of all that may be there, from which the score follows (Karras et al. 2022, eq. 3), or
        the one image at the end of the probability-flow ODE (a consistency function, Song et al. 2023).
    kind `backbone`: forward(images (n, c, h, w), time (n,), labels or None) -> (n, outputs, h, w): what a denoiser is
        built over; `outputs` counts channels.
    kind `energy`: forward(images (n, c, h, w), labels or None) -> (n,): minus the log-density, but for a constant.
    kind `pixels`: forward(decoded (n, c, h, w), images (n, c, h, w)) -> log-likelihood (n,) of the images, in nats:
        what a pixel is, given the decoded image.
    kind `autoregressive`: forward(images (n, c, h, w), labels or None) -> the log-probability in nats of each value,
        given those before it, (n, c, h, w); see genforge.networks.autoregressive.
    A network states in `Network.kind` which one it serves.
    """

    kind: PortKind
    image: ImageShape
    latent_size: int = 0
    outputs: int = 0
    classes: int = 0  # 0: not conditioned on labels
    unlabelled: bool = False  # a label may also be `classes`, which stands for none (classifier-free guidance)
    taught: Taught = "score"  # of a denoiser

    @property
    def description(self) -> str:
        """In words, for errors."""
        if self.kind == "denoiser" and self.taught == "consistency":
            return "denoiser network that was taught as a consistency function, and so knows no score"
        return f"{self.kind} network"
