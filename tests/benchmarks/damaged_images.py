"""Small images of every format that `prepare` reads, and ways to damage them, all from a seed."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

EXTREMES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def packed(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def originals(seed: int = 0) -> list[tuple[str, bytes]]:
    """Whole images, 8 to 32 pixels wide, in every format and most of the forms that it has: (file ending, bytes)."""
    generator = np.random.default_rng(seed)
    whole: list[tuple[str, bytes]] = []
    for side in (8, 16, 32):
        colour = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        gray, clear, cyan = colour.convert("L"), colour.convert("RGBA"), colour.convert("CMYK")
        deep = Image.fromarray(generator.integers(0, 65536, (side, side), dtype=np.uint16))
        palette = colour.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
        frames = {"save_all": True, "append_images": [gray.convert("RGB"), colour.rotate(90)]}
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a description"
        png_text = {"pnginfo": _png_texts()}
        forms: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
            "jpeg": [
                (colour, {}),
                (gray, {}),
                (cyan, {}),
                (colour, {"progressive": True, "exif": exif}),
                (colour, {"subsampling": 2, "icc_profile": bytes(200), "restart_marker_rows": 1}),
            ],
            "png": [
                (colour, {}),
                (gray, {"exif": exif}),
                (palette, {"transparency": 3}),
                (deep, {}),
                (clear, png_text),
                (gray.convert("1"), {"icc_profile": bytes(200)}),
            ],
            "webp": [(colour, {}), (clear, {"lossless": True, "exif": exif}), (colour, frames)],
            "bmp": [(colour, {}), (gray, {}), (palette, {}), (clear, {}), (gray.convert("1"), {})],
            "tiff": [
                (colour, {}),
                (gray, {"compression": "tiff_lzw"}),
                (colour, {"compression": "tiff_adobe_deflate", "exif": exif}),
                (colour, {"compression": "jpeg"}),
                (cyan, {"compression": "packbits"}),
                (deep, {}),
                (gray.convert("1"), {"compression": "group4"}),
                (colour, frames),
                (clear, {"big_tiff": True}),
            ],
            "gif": [(palette, {}), (gray, {"comment": b"hello"}), (colour, frames), (palette, {"interlace": 0})],
        }
        whole += [(form, packed(image, form, **options)) for form, made in forms.items() for image, options in made]
    return whole


def damaged(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files: (name, bytes). The name says how the file was damaged and into which format's ending."""
    chance = random.Random(seed)
    whole = originals(seed)
    ways = list(DAMAGES)
    for number in range(count):
        way = ways[number % len(ways)]
        form, data = chance.choice(whole)
        broken = DAMAGES[way](bytearray(data), chance, whole)
        if broken.startswith(PNG_SIGNATURE) and chance.random() < 0.6:
            broken = with_right_checksums(broken)  # or nothing behind the checksums would ever meet damage
        yield f"{way}-{number:05d}.{form}", bytes(broken)


Whole = list[tuple[str, bytes]]


def _flip_bits(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    for _ in range(chance.choice((1, 1, 2, 5, 20, 100))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def _flip_header_bits(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    for _ in range(chance.choice((1, 2, 3))):
        data[chance.randrange(4, min(len(data), 120))] ^= 1 << chance.randrange(8)
    return data


def _truncate(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    return data[: chance.randrange(len(data))]


def _truncate_before_the_end_mark(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    """A cut in the middle that still ends as the format wants it."""
    end = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"\0\0\0\0IEND\xaeB`\x82", b"GI": b";"}.get(bytes(data[:2]), b"")
    return data[: chance.randrange(20, len(data))] + end


def _swap_headers(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    other = chance.choice(whole)[1]
    length = chance.choice((4, 8, 12, 26, 40, 60))
    return bytearray(other[:length]) + data[length:]


def _splice(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    other = chance.choice(whole)[1]
    return data[: chance.randrange(len(data))] + bytearray(other[chance.randrange(len(other)) :])


def _overwrite(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    at, length = chance.randrange(len(data)), chance.choice((2, 4, 16, 64))
    data[at : at + length] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return data


def _repeat_a_part(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    start = chance.randrange(len(data))
    part = data[start : start + chance.randrange(1, 200)]
    return data[:start] + part * chance.choice((2, 3, 50)) + data[start:]


def _extreme_numbers(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    """Numbers of 2 or 4 bytes near the beginning become 0, 1 or as large as they can be, in either order of bytes."""
    for _ in range(chance.choice((1, 1, 3))):
        at, size = chance.randrange(2, min(len(data) - 4, 200)), chance.choice((2, 4))
        order = chance.choice(("little", "big"))
        data[at : at + size] = (chance.choice(EXTREMES) & (256**size - 1)).to_bytes(size, order)  # type: ignore[arg-type]
    return data


def _huge_size(data: bytearray, chance: random.Random, whole: Whole) -> bytearray:
    """The width and height that the header declares become large, where the format keeps them."""
    wide, high = (chance.choice((257, 4000, 7999, 8000, 16383, 60000, 65535)) for _ in "wh")
    if data.startswith(PNG_SIGNATURE):
        data[16:24] = struct.pack(">II", wide, high)
        return with_right_checksums(data)
    if data.startswith(b"\xff\xd8"):
        at = next((found for mark in (b"\xff\xc0", b"\xff\xc2") if (found := data.find(mark)) > 0), 0)
        data[at + 5 : at + 9] = struct.pack(">HH", high, wide)
    elif data.startswith(b"GIF"):
        where = chance.choice((6, data.find(b",") + 5))
        data[where : where + 4] = struct.pack("<HH", wide, high)
    elif data.startswith(b"BM"):
        data[18:26] = struct.pack("<ii", wide, chance.choice((high, -high)))
    elif data.startswith(b"RIFF"):
        at = data.find(b"VP8X")
        if at > 0:
            data[at + 12 : at + 18] = (wide - 1).to_bytes(3, "little") + (high - 1).to_bytes(3, "little")
        elif (at := data.find(b"\x9d\x01\x2a")) > 0:
            data[at + 3 : at + 7] = struct.pack("<HH", wide & 16383, high & 16383)
    elif data.startswith((b"II", b"MM")):
        order = "<" if data.startswith(b"II") else ">"
        for tag, value in ((256, wide), (257, high)):
            at = data.find(struct.pack(f"{order}H", tag), 8)
            data[at + 8 : at + 12] = struct.pack(f"{order}I", value)
    return data


DAMAGES: dict[str, Callable[[bytearray, random.Random, Whole], bytearray]] = {
    "bits": _flip_bits,
    "header-bits": _flip_header_bits,
    "cut": _truncate,
    "cut-and-ended": _truncate_before_the_end_mark,
    "swapped-header": _swap_headers,
    "spliced": _splice,
    "overwritten": _overwrite,
    "repeated": _repeat_a_part,
    "extreme-numbers": _extreme_numbers,
    "huge-size": _huge_size,
}


def with_right_checksums(data: bytearray | bytes) -> bytearray:
    """A PNG whose chunks, as far as they can be followed, have the checksums of their contents."""
    mended, at = bytearray(data), 8
    while at + 12 <= len(mended):
        after = at + 12 + int.from_bytes(mended[at : at + 4], "big")
        if after > len(mended):
            break
        mended[after - 4 : after] = struct.pack(">I", zlib.crc32(mended[at + 4 : after - 4]))
        at = after
    return mended


def png_chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def _png_texts() -> object:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_itxt("Title", "a title", zip=True)
    texts.add_text("Comment", "a comment", zip=True)
    return texts
