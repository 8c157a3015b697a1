"""An invisible watermark: 16 bits that survive JPEG at quality 75 and better, in images of 64x64 and more.

Quantisation index modulation with dither (Chen and Wornell 2001, Quantization index modulation: a class of provably
good methods for digital watermarking and information embedding, IEEE Trans. Inf. Theory 47(4), section V: dither
modulation). The luminance is cut into blocks of 8x8, JPEG's own. Four low frequencies of each block's DCT vote: one at
c says cos(2 pi (c / STEP - d - b / 2)), where the dither d, uniform in [0, 1), is drawn from the key for each
coefficient, and b is one of the 16 bits. Each bit lies in every 16th coefficient, in an order drawn from the key.

Chen and Wornell move every coefficient to the nearest point of the lattice, where its vote is 1. Here each is moved as
far as pays: by the x that makes the vote expected after JPEG, minus price * x^2, largest. Under JPEG a small change in
an even area is lost, and one that just passes half a step of JPEG's is made whole; both are in that expectation.
The price falls until the image, compressed at each of QUALITIES for a trial, shows the mark, and no further. Of all
changes of colour that change luminance so much, the shortest is made: along the weights of luminance.

False positives are known exactly, whatever the images are. For an image that was made without the key, c / STEP - d is
uniform modulo 1 and independent between coefficients, since d is. So the agreement of N coefficients with a given word
of bits is a sum of N cosines of independent uniform angles, whose tail Chernoff's bound limits: P(sum >= s) <=
min_t exp(-t s) I_0(t)^N. What is reported is the best of all 2^16 words, so this times 2^16 (`Mark.chance`). The
probability is over keys: for one key, images that are alike (two black ones) are found or not found together.

It does not survive resizing, cropping off the grid of 8, turning, or somebody who means to remove it and knows the
method; and who knows the key can write it into any image. It tells honest people where an image came from.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

LEAST_SIDE = 64  # pixels: fewer blocks than 64 hold too little to be sure of
KEY = "GENFORGE_WATERMARK_KEY"  # environment: the key of whoever draws and looks
PUBLIC_KEY = "genforge"  # where none is set: anybody may look for it
BITS = 16
CERTAIN = 1e-9  # a mark whose chance is not above this counts as found
STEP = 12.0  # gray levels between lattice points: twice JPEG's steps at quality 75
BLOCK = 8
# (vertical, horizontal) frequency: JPEG's step there in its example table (ITU-T T.81, table K.1), at quality 50. The
# lowest but the mean have the smallest steps.
FREQUENCIES = {(0, 1): 11, (1, 0): 12, (1, 1): 12, (0, 2): 10}
QUALITIES = (75, 77, 79, 82, 85, 88, 91, 95)  # of JPEG at which a mark is tried before it leaves
TRIED = 1e-11  # its chance there is not above this: what is between these qualities loses a little more
DOUBT = 1.5  # votes: a bit whose sum was nearer to 0 there could turn
PRICES = np.geomspace(0.15, 0.003, 16)  # votes for a squared gray level
CHANGES = np.arange(-7, 7.1, 0.5)  # of a coefficient, gray levels, among which the best is chosen
PASSES = 4  # of moving and clipping: what is clipped at black or white is moved again
TOGETHER = 64  # images that are marked at once
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # JPEG's own (ITU-R BT.601)


@dataclass(frozen=True)
class Mark:
    """What stands in an image, if anything does. `chance` is an upper bound of the probability that an image that was
    made without the key would look as much like a marked one."""

    word: int
    chance: float

    @property
    def digits(self) -> str:
        """The word as it stands in a digest, in hexadecimal."""
        return f"{self.word:0{BITS // 4}x}"

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
    """`images`, uint8 (n, height, width, channels) with 1 or 3 channels, with `word`, 0..2^16-1, written into them.

    An image in which the mark stays under no price (none is known) gets it as strong as it can be.

    Args:
        key: None: the one of `own_key`.

    Raises:
        ValueError: the images are smaller than 64x64, or the word has more than 16 bits.
    """
    if not can_hold(*images.shape[1:3]) or not 0 <= word < 2**BITS:
        raise ValueError(f"a mark is a word of {BITS} bits in images of {LEAST_SIDE}x{LEAST_SIDE} at least, not "
                         f"{word} in {images.shape}")  # fmt: skip
    key = key or own_key()
    marked = images.copy()
    for first in range(0, len(images), TOGETHER):
        part = images[first : first + TOGETHER]
        waiting = np.arange(len(part))
        values, votes = _expected_votes(part, word, key)
        for price in PRICES:
            best = (votes[waiting] - price * CHANGES**2).argmax(axis=-1)
            tried = _moved(part[waiting], values[waiting] + CHANGES[best])
            marked[first + waiting] = tried
            waiting = waiting[[not _stays(image, word, key) for image in tried]]
            if not len(waiting):
                break
    return marked


def _expected_votes(images: np.ndarray, word: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Each coefficient, and what it is expected to say after JPEG for the word's bit if it is moved by each of CHANGES:
    (n, blocks, frequencies) and (n, blocks, frequencies, changes)."""
    values = _spectrum(_blocks(_luminance(images.astype(np.float64))))
    dither, places = _pattern(values.shape[1], key)
    offset = (dither + (word >> np.arange(BITS) & 1)[places] / 2)[..., None]
    moved = values[..., None] + CHANGES
    votes = np.zeros_like(moved)
    for quality in (75, 82, 90):
        # The Independent JPEG Group's scale of qualities, which all encoders know.
        step = (np.array(list(FREQUENCIES.values())) * (200 - 2 * quality) + 50) // 100
        for rounding in (-0.7, 0.0, 0.7):  # what pixels lose by being whole numbers, in a coefficient
            after = np.round((moved + rounding) / step[:, None]) * step[:, None]
            votes += np.cos(2 * np.pi * (after / STEP - offset)) / 9
    return values, votes


def _moved(images: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """uint8 images with these coefficients, (n, blocks, frequencies), as near as whole numbers from 0 to 255 come."""
    rows, columns = images.shape[1] // BLOCK, images.shape[2] // BLOCK
    colour = _LUMINANCE / (_LUMINANCE @ _LUMINANCE) if images.shape[-1] == 3 else np.ones(1)
    moved = images.astype(np.float64)
    for _ in range(PASSES):
        missing = wanted - _spectrum(_blocks(_luminance(moved)))
        change = _pixels(_image_blocks(missing), rows, columns)  # (n, rows * 8, columns * 8)
        moved[:, : rows * BLOCK, : columns * BLOCK] += change[..., None] * colour
        moved = np.clip(moved, 0, 255)
    return np.round(moved).astype(np.uint8)


def _stays(image: np.ndarray, word: int, key: str) -> bool:
    """Whether every bit is there beyond doubt, as the image is and after JPEG at each of QUALITIES."""
    signs = 1 - 2 * (word >> np.arange(BITS) & 1)
    for quality in (*QUALITIES, None):
        sums, count = _sums(image if quality is None else _jpeg(image, quality), key)
        if (sums * signs).min() < DOUBT or _chance_of_any_word(sums, count) > TRIED:
            return False
    return True


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left of uint8 (height, width, channels) after JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def detect(image: np.ndarray, key: str | None = None) -> Mark:
    """The mark in `image`, uint8 (height, width, channels) with 1 or 3 channels. One that is too small holds none."""
    if not can_hold(*image.shape[:2]):
        return Mark(0, 1.0)
    sums, count = _sums(image, key or own_key())
    return Mark(int(((sums < 0) << np.arange(BITS)).sum()), _chance_of_any_word(sums, count))


def _sums(image: np.ndarray, key: str) -> tuple[np.ndarray, int]:
    """The sum of each bit's votes, positive for 0 and negative for 1, (BITS,); and how many votes there are."""
    values = _spectrum(_blocks(_luminance(image[None].astype(np.float64))))[0]
    dither, places = _pattern(len(values), key)
    votes = np.cos(2 * np.pi * (values / STEP - dither))
    return np.bincount(places.ravel(), votes.ravel(), minlength=BITS), votes.size


def _chance_of_any_word(sums: np.ndarray, count: int) -> float:
    return min(1.0, 2.0**BITS * chance(float(np.abs(sums).sum()), count))


def chance(agreement: float, count: int) -> float:
    """Upper bound of the probability that `count` cosines of independent uniform angles sum to `agreement` or more."""
    if agreement <= 0:
        return 1.0
    t, log_bessel = _exponents()
    return math.exp(min(0.0, float((count * log_bessel - t * agreement).min())))


@lru_cache(maxsize=1)
def _exponents() -> tuple[np.ndarray, np.ndarray]:
    """The t among which Chernoff's bound looks for the best, and log I_0(t)."""
    t = np.geomspace(1e-3, 300, 2000)
    return t, np.log(np.i0(t))


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
