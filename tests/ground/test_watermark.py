"""The watermark stays under JPEG, is not seen, and is not found where it is not: as often as theory allows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from genforge import watermark
from genforge.data import tins

WORD = 0xC0FE


def pictures() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    drawn = tins.draw(tins.draw_factors(8, 0), 64)
    return {
        "tins": drawn,
        "gray tins": drawn[..., :1],
        "noise": random.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8),
        "black": np.zeros((1, 64, 64, 1), np.uint8),
        "white": np.full((1, 64, 64, 3), 255, np.uint8),
        "red": np.zeros((1, 64, 64, 3), np.uint8) + np.array([255, 0, 0], np.uint8),
        "not square, off the grid": random.integers(90, 140, (2, 68, 92, 3), dtype=np.uint8),
    }


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


@pytest.mark.parametrize("kind", list(pictures()))
def test_it_survives_jpeg_at_quality_75_and_cannot_be_seen(kind: str) -> None:
    images = pictures()[kind]
    marked = watermark.embed(images, WORD)
    assert marked.dtype == np.uint8 and marked.shape == images.shape
    error = np.mean((marked.astype(float) - images) ** 2)
    assert 10 * np.log10(255**2 / error) > 49  # decibels
    for image in marked:
        for quality in (None, 100, 93, 84, 75):  # those between the ones that it was tried at, too
            mark = watermark.detect(image if quality is None else jpeg(image, quality))
            assert mark.is_found and mark.word == WORD


def test_an_image_that_takes_little_pays_little() -> None:
    """What even areas need is not spent on those where JPEG keeps small changes."""
    images = np.concatenate([pictures()["tins"][:1], pictures()["noise"][:1]])
    errors = ((watermark.embed(images, WORD).astype(float) - images) ** 2).mean(axis=(1, 2, 3))
    assert 0 < errors[1] < errors[0]
    assert np.array_equal(watermark.embed(images, WORD)[1:], watermark.embed(images[1:], WORD))  # whoever is beside it


def test_an_image_of_nothing_but_black_and_white_points_is_left_alone_as_far_as_it_goes() -> None:
    """Half of every change is clipped there: the mark is lost, and nothing else."""
    points = (np.random.default_rng(0).integers(0, 2, (1, 64, 64, 1)) * 255).astype(np.uint8)
    (marked,) = watermark.embed(points, WORD)
    assert np.mean((marked.astype(float) - points[0]) ** 2) < 3
    assert not watermark.detect(jpeg(marked, 75)).is_found


def test_a_png_holds_it_and_other_keys_or_no_mark_find_nothing() -> None:
    images = pictures()["tins"]
    marked = watermark.embed(images, WORD, "mine")
    assert all(watermark.detect(image, "mine").word == WORD for image in marked)
    chances = [watermark.detect(image, key).chance for image in images for key in ("mine", "theirs")]
    chances += [watermark.detect(image, "theirs").chance for image in marked]
    assert min(chances) > 1e-3  # a thousand looks find nothing that would happen once in a thousand


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(watermark.KEY, "of the house")
    (marked,) = watermark.embed(pictures()["white"], WORD)
    assert watermark.detect(marked).is_found
    monkeypatch.delenv(watermark.KEY)
    assert not watermark.detect(marked).is_found


def test_agreement_of_a_given_word_is_distributed_as_theory_says() -> None:
    """Over keys the angles are uniform whatever the image is: the statistic of one word has variance N / 2."""
    image = pictures()["tins"][0]
    values = watermark._spectrum(watermark._blocks(watermark._luminance(image[None].astype(float))))[0]
    sums = []
    for key in range(600):
        dither, _ = watermark._pattern(len(values), f"key {key}")
        sums.append(np.cos(2 * np.pi * (values / watermark.STEP - dither)).sum() / np.sqrt(values.size / 2))
    assert stats.kstest(sums, "norm").pvalue > 1e-3


@pytest.mark.parametrize("count", [20, 640])
def test_the_bound_is_above_the_tail_and_close_to_it(count: int) -> None:
    random = np.random.default_rng(1)
    drawn = np.cos(
        random.uniform(
            0,
            2 * np.pi,
            (5_000, count),
        )
    ).sum(axis=1)
    for share in (0.1, 0.01):
        bound = watermark.chance(float(np.quantile(drawn, 1 - share)), count)
        assert share < bound < 12 * share
    assert watermark.chance(0.0, count) == watermark.chance(-5.0, count) == 1.0
    assert watermark.chance(count * 0.999, count) < 1e-9


def test_small_images_hold_none() -> None:
    small = np.zeros((1, 32, 64, 3), np.uint8)
    assert not watermark.can_hold(32, 64) and watermark.can_hold(64, 64)
    assert watermark.detect(small[0]) == watermark.Mark(0, 1.0)
    with pytest.raises(ValueError, match="64x64 at least"):
        watermark.embed(small, WORD)
    with pytest.raises(ValueError, match="16 bits"):
        watermark.embed(pictures()["black"], 2**16)
