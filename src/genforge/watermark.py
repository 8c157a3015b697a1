"""An invisible watermark: 32 bits that survive JPEG at quality 75, in images of 64x64 and more.

Quantisation index modulation with dither (Chen and Wornell 2001, Quantization index modulation: a class of provably
good methods for digital watermarking and information embedding, IEEE Trans. Inf. Theory 47(4), section V: dither
modulation). The luminance is cut into blocks of 8x8, JPEG's own. Ten low frequencies of each block's DCT are moved to
the nearest point of a lattice STEP d + STEP/2 b + STEP Z, where the dither d, uniform in [0, 1), is drawn from the key
for each coefficient, and b is one of the 32 bits. Each bit lies in every 32nd coefficient, in an order drawn from the
key. The sums are soft: a coefficient at c votes with cos(2 pi (c / STEP - d)).

False positives are known exactly, whatever the images are. For an image that was made without the key, c / STEP - d is
uniform modulo 1 and independent between coefficients, since d is. So the agreement of N coefficients with a given word
of bits is a sum of N cosines of independent uniform angles, whose tail Chernoff's bound limits: P(sum >= s) <=
min_t exp(-t s) I_0(t)^N. What is reported is the best of all 2^32 words, so this times 2^32 (`Mark.chance`). The
probability is over keys: for one key, images that are alike (two black ones) are found or not found together.

It does not survive resizing, cropping off the grid of 8, turning, or somebody who means to remove it and knows the
method; and who knows the key can write it into any image. It tells honest people where an image came from.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LEAST_SIDE = 64  # pixels: fewer blocks than 64 hold too little to be sure of
KEY = "GENFORGE_WATERMARK_KEY"  # environment: the key of whoever draws and looks
PUBLIC_KEY = "genforge"  # where none is set: anybody may look for it
BITS = 32
CERTAIN = 1e-9  # a mark whose chance is not above this counts as found
STEP = 12.0  # gray levels between lattice points: JPEG moves these frequencies by 2 or 3 at quality 75
PASSES = 6  # of moving and clipping: what is clipped at black or white is moved again
BLOCK = 8
# (vertical, horizontal) frequency: the lowest ten but the mean, where JPEG's steps at quality 75 are 5 to 8 levels.
FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2), (0, 3), (3, 0))
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # JPEG's own (ITU-R BT.601)


@dataclass(frozen=True)
class Mark:
    """What stands in an image, if anything does. `chance` is an upper bound of the probability that an image that was
    made without the key would look as much like a marked one."""

    word: int
    chance: float

    @property
    def is_found(self) -> bool:
        return self.chance <= CERTAIN


def can_hold(height: int, width: int) -> bool:
    """Whether images of this size get a mark."""
    return min(height, width) >= LEAST_SIDE


def own_key() -> str:
    """The key of this process's user."""
    return os.environ.get(KEY) or PUBLIC_KEY


def embed(images: np.ndarray, word: int, key: str | None = None) -> np.ndarray:
    """`images`, uint8 (n, height, width, channels) with 1 or 3 channels, with `word`, 0..2^32-1, written into them.

    Args:
        key: None: the one of `own_key`.

    Raises:
        ValueError: the images are smaller than 64x64, or the word has more than 32 bits.
    """
    if not can_hold(*images.shape[1:3]) or not 0 <= word < 2**BITS:
        raise ValueError(f"a mark is a word of {BITS} bits in images of {LEAST_SIDE}x{LEAST_SIDE} at least, not "
                         f"{word} in {images.shape}")  # fmt: skip
    if not len(images):
        return images
    marked = images.astype(np.float64)
    rows, columns = images.shape[1] // BLOCK, images.shape[2] // BLOCK
    dither, places = _pattern(rows * columns, key or own_key())
    bits = (word >> np.arange(BITS) & 1)[places]
    offset = (dither + bits / 2) * STEP  # (blocks, frequencies)
    for _ in range(PASSES):
        blocks = _blocks(_luminance(marked))
        values = _spectrum(blocks)
        wanted = np.round((values - offset) / STEP) * STEP + offset
        change = _pixels(_image_blocks(wanted - values), rows, columns)  # (n, rows * 8, columns * 8)
        marked[:, : rows * BLOCK, : columns * BLOCK] += change[..., None]
        marked = np.clip(marked, 0, 255)
    return np.round(marked).astype(np.uint8)


def detect(image: np.ndarray, key: str | None = None) -> Mark:
    """The mark in `image`, uint8 (height, width, channels) with 1 or 3 channels. One that is too small holds none."""
    if not can_hold(*image.shape[:2]):
        return Mark(0, 1.0)
    values = _spectrum(_blocks(_luminance(image[None].astype(np.float64))))[0]
    dither, places = _pattern(len(values), key or own_key())
    votes = np.cos(2 * np.pi * (values / STEP - dither))
    sums = np.bincount(places.ravel(), votes.ravel(), minlength=BITS)
    word = int(((sums < 0) << np.arange(BITS)).sum())
    return Mark(word, min(1.0, 2.0**BITS * chance(float(np.abs(sums).sum()), votes.size)))


def chance(agreement: float, count: int) -> float:
    """Upper bound of the probability that `count` cosines of independent uniform angles sum to `agreement` or more."""
    if agreement <= 0:
        return 1.0
    t = np.geomspace(1e-3, 300, 2000)
    return math.exp(min(0.0, float((count * np.log(np.i0(t)) - t * agreement).min())))


@lru_cache(maxsize=8)
def _pattern(blocks: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """For each coefficient of each block its dither, in steps, and which bit it holds: two (blocks, frequencies)."""
    count = blocks * len(FREQUENCIES)
    drawn = np.frombuffer(hashlib.shake_256(key.encode()).digest(8 * count), "<u4").reshape(2, count)
    places = np.argsort(drawn[1], kind="stable") % BITS
    shape = (blocks, len(FREQUENCIES))
    return (drawn[0] / 2.0**32).reshape(shape), places.reshape(shape)


def _luminance(images: np.ndarray) -> np.ndarray:
    """(n, height, width) from (n, height, width, channels)."""
    return images[..., 0] if images.shape[-1] == 1 else images @ _LUMINANCE


def _blocks(planes: np.ndarray) -> np.ndarray:
    """(n, blocks, 8, 8) from (n, height, width), row by row; what is left over at the right and below stays out."""
    count, rows, columns = planes.shape[0], planes.shape[1] // BLOCK, planes.shape[2] // BLOCK
    whole = planes[:, : rows * BLOCK, : columns * BLOCK].reshape(count, rows, BLOCK, columns, BLOCK)
    return whole.transpose(0, 1, 3, 2, 4).reshape(count, rows * columns, BLOCK, BLOCK)


def _pixels(blocks: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The inverse of `_blocks`: (n, rows * 8, columns * 8)."""
    parts = blocks.reshape(len(blocks), rows, columns, BLOCK, BLOCK).transpose(0, 1, 3, 2, 4)
    return parts.reshape(len(blocks), rows * BLOCK, columns * BLOCK)


def _waves() -> np.ndarray:
    """The orthonormal DCT-II's waves of FREQUENCIES: (frequencies, 8, 8)."""
    place = (2 * np.arange(BLOCK) + 1) * np.pi / (2 * BLOCK)
    lines = np.sqrt(2 / BLOCK) * np.cos(np.arange(BLOCK)[:, None] * place)
    lines[0] /= np.sqrt(2)
    return np.stack([np.outer(lines[down], lines[across]) for down, across in FREQUENCIES])


_WAVES = _waves()


def _spectrum(blocks: np.ndarray) -> np.ndarray:
    """(n, blocks, frequencies): how much of each wave is in each block."""
    return np.tensordot(blocks, _WAVES, axes=([2, 3], [1, 2]))


def _image_blocks(values: np.ndarray) -> np.ndarray:
    """(n, blocks, 8, 8) with so much of each wave."""
    return np.tensordot(values, _WAVES, axes=1)
