"""What one image file becomes, and what is said of one that is broken."""

from __future__ import annotations

import io
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genforge.data import decoding
from genforge.data.decoding import Broken, Rules, content_digest, decode, decode_onto, fitted, read

RULES = Rules(side=16, resize=True, channels=3, fit="crop", max_pixels=64_000_000, max_bytes=256_000_000)
NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def packed(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(data: bytes, **rules: object) -> np.ndarray:
    image = decode(data, RULES._replace(**rules))[1]
    assert image is not None
    return np.asarray(image)


def why_broken(data: bytes, **rules: object) -> str:
    with pytest.raises(Broken) as caught:
        decode(data, RULES._replace(**rules))
    return caught.value.reason


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_back_their_pixels(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(pixels(packed(Image.fromarray(NOISE), form, **options)), NOISE)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"comment": b"hello"}])
def test_plain_jpegs_decode_as_pillow_does(mode: str, options: dict[str, object]) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    data = packed(image, "JPEG", **options)
    canvas = Image.new(mode, (16, 48))
    declared, drawn = decode_onto(canvas, 16, data, RULES._replace(channels=1 if mode == "L" else 3))
    assert drawn and declared == (16, 16, mode)
    assert np.array_equal(np.asarray(canvas)[16:32], np.asarray(Image.open(io.BytesIO(data))))
    assert not np.asarray(canvas)[:16].any() and not np.asarray(canvas)[32:].any()


def test_sixteen_bit_gray_is_scaled_over_its_whole_range() -> None:
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(pixels(packed(Image.fromarray(levels), form), channels=1).ravel(), np.arange(256))


def test_palettes_become_their_colours() -> None:
    colours = NOISE[:2, :2].reshape(4, 3)
    indices = np.random.default_rng(1).integers(0, 4, (16, 16), dtype=np.uint8)
    image = Image.fromarray(indices, "L").copy()
    image = Image.frombytes("P", (16, 16), indices.tobytes())
    image.putpalette(colours.tobytes())
    for form in ("PNG", "GIF"):
        assert np.array_equal(pixels(packed(image, form)), colours[indices])


def test_transparency_is_laid_over_white() -> None:
    alpha = np.full((16, 16, 1), 51, np.uint8)  # a fifth
    alpha[:8] = 0
    found = pixels(packed(Image.fromarray(np.concatenate([NOISE, alpha], axis=2)), "PNG")).astype(float)
    assert (found[:8] == 255).all()
    assert np.abs(found[8:] - (0.2 * NOISE[8:] + 0.8 * 255)).max() <= 1.0
    gray = Image.merge("LA", [Image.fromarray(NOISE[..., 0]), Image.fromarray(alpha[..., 0])])
    found = pixels(packed(gray, "PNG"), channels=1).astype(float)
    assert np.abs(found[8:] - (0.2 * NOISE[8:, :, 0] + 0.8 * 255)).max() <= 1.0


def test_hidden_colours_do_not_bleed_when_resized() -> None:
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., 0] = 255  # red, and invisible
    assert (pixels(packed(Image.fromarray(image), "PNG")) == 255).all()


def test_one_bit_and_cmyk() -> None:
    bits = NOISE[..., 0] > 127
    assert np.array_equal(pixels(packed(Image.fromarray(bits), "PNG"), channels=1), bits * np.uint8(255))
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.abs(pixels(packed(cyan, "JPEG", quality=95)).astype(int) - (0, 255, 255)).max() < 8
    assert np.array_equal(pixels(packed(cyan, "TIFF")), np.full((16, 16, 3), (0, 255, 255)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_upright(form: str, orientation: int) -> None:
    quarter = np.zeros((16, 16), np.uint8)
    quarter[:8, :8] = 255  # the upper left quarter
    quarter[:8, 8:] = 128
    undo = {
        1: quarter,
        2: quarter[:, ::-1],
        3: quarter[::-1, ::-1],
        4: quarter[::-1],
        5: quarter.T,
        6: np.rot90(quarter),
        7: quarter[::-1, ::-1].T,
        8: np.rot90(quarter, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(packed(Image.fromarray(np.ascontiguousarray(undo[orientation])), form, exif=exif), channels=1)
    assert np.abs(found.astype(int) - quarter).max() < 12


def test_fit_rules() -> None:
    wide = np.zeros((16, 33), np.uint8)
    wide[:, 8:24] = NOISE[..., 0]
    assert np.array_equal(
        np.asarray(fitted(Image.fromarray(wide), 16, "crop")), NOISE[..., 0]
    )  # the spare column: right
    padded = np.asarray(fitted(Image.fromarray(np.full((8, 16), 255, np.uint8)), 16, "pad"))
    assert (padded[4:12] == 255).all() and not padded[:4].any() and not padded[12:].any()
    stretched = np.asarray(fitted(Image.fromarray(np.full((8, 30), 77, np.uint8)), 16, "stretch"))
    assert stretched.shape == (16, 16) and (stretched == 77).all()
    assert np.asarray(fitted(Image.fromarray(wide[:1]), 16, "pad")).shape == (16, 16)  # a line is no trouble


def test_large_jpegs_are_nearly_the_same_when_decoded_small() -> None:
    smooth = Image.fromarray(NOISE[:4, :4]).resize((512, 512), Image.Resampling.BICUBIC)
    data = packed(smooth, "JPEG", quality=95)
    exact = np.asarray(Image.open(io.BytesIO(data)).resize((16, 16), Image.Resampling.LANCZOS))
    assert np.abs(pixels(data).astype(int) - exact).max() <= 3


def test_other_sizes_are_left_alone_unless_resizing_is_asked_for() -> None:
    declared, image = decode(packed(Image.new("RGB", (20, 24)), "PNG"), RULES._replace(resize=False))
    assert declared == (20, 24, "RGB") and image is None


def chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def huge_png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def huge_jpeg() -> bytes:
    data = bytearray(packed(Image.fromarray(NOISE), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    return bytes(data)


def test_what_is_broken_is_told_by_its_reason() -> None:
    jpeg, png = packed(Image.fromarray(NOISE), "JPEG"), packed(Image.fromarray(NOISE), "PNG")
    webp, gif, bmp = (packed(Image.fromarray(NOISE), form) for form in ("WEBP", "GIF", "BMP"))
    assert why_broken(b"hello, this is text") == decoding.NOT_AN_IMAGE
    assert why_broken(os.urandom(8).replace(b"\xff", b"0") + bytes(500)) == decoding.NOT_AN_IMAGE
    for whole in (jpeg, png, webp, bmp):
        for kept in (0.3, 0.6, 0.9):
            assert why_broken(whole[: int(len(whole) * kept)]) == decoding.TRUNCATED
    assert why_broken(gif[: len(gif) // 2]) in (decoding.TRUNCATED, decoding.DAMAGED)
    assert why_broken(jpeg[:-2]) == decoding.TRUNCATED  # all rows are there, but the end is not
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    assert why_broken(bytes(flipped)) == decoding.DAMAGED
    assert why_broken(huge_png(30_000)) == decoding.TOO_MANY_PIXELS
    assert why_broken(huge_jpeg()) == decoding.TOO_MANY_PIXELS
    assert why_broken(packed(Image.new("F", (16, 16)), "TIFF")) == decoding.UNSUPPORTED


def test_a_bomb_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in (huge_png(60_000), huge_jpeg()):  # 10.8 and 12.9 GB when decoded
        assert why_broken(bomb) == decoding.TOO_MANY_PIXELS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


def test_every_cut_of_a_jpeg_is_refused() -> None:
    data = packed(Image.fromarray(NOISE), "JPEG")
    canvas = Image.new("RGB", (16, 16))
    for length in range(3, len(data) - 1):
        with pytest.raises(Broken) as caught:
            decode_onto(canvas, 0, data[:length], RULES)
        assert caught.value.reason == decoding.TRUNCATED


def test_reading_tells_why_it_cannot(tmp_path: Path) -> None:
    def why(path: Path, most: int = 100) -> str:
        with pytest.raises(Broken) as caught:
            read(path, most)
        return caught.value.reason

    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(101))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert why(tmp_path / "empty") == decoding.EMPTY
    assert why(tmp_path / "large") == decoding.TOO_LARGE
    assert why(tmp_path / "pipe") == decoding.UNREADABLE
    assert why(tmp_path) == decoding.UNREADABLE
    assert why(tmp_path / "dangling") == why(tmp_path / "absent") == decoding.MISSING


def test_gray_content_is_the_same_once_or_three_times() -> None:
    gray = NOISE[..., 0].copy()
    assert content_digest(gray.tobytes(), 1) == content_digest(gray.repeat(3).tobytes(), 3)
    almost = gray.repeat(3)
    almost[-1] ^= 1
    assert content_digest(almost.tobytes(), 3) != content_digest(gray.tobytes(), 1)
