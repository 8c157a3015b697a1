"""From the bytes of one image file to the pixels that networks see, or to the reason why not.

What every image goes through, in this order:

1. The first frame of the file is taken, and turned upright as its EXIF orientation says.
2. Palettes become RGB; CMYK, YCbCr, Lab and HSV become RGB; 1-bit becomes gray; 16-bit gray is divided by 257 and
   rounded (16-bit colour keeps its high byte). Pixels of 32 bits have no known range, so they are refused.
3. A side that differs from the one asked for is resized with Pillow's antialiased Lanczos filter. `crop` takes the
   centre square of the shorter side (a spare row or column is lost at the bottom or right); `pad` fits the longer side
   and centres the rest on black; `stretch` does neither. A JPEG that is much larger is decoded at 1/2, 1/4 or 1/8
   of its size first, never below twice the side asked for. An image of the right size is not touched.
4. Transparency is laid over white, as on a page. It is weighed in before resizing, so hidden colours do not bleed.
5. RGB to gray, where gray is asked for, is the luma of ITU-R BT.601; gray to RGB repeats the channel.

Before anything is decoded the size that the header declares is checked, so a decompression bomb costs no memory; text
and colour profiles that unpack to more than Pillow's limits make a file damaged. Only the first frame or page is read,
however many there are. What takes too long is ended from outside (`decoding_worker.py`).
This file is imported by worker processes: it needs Pillow and little else, and never torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

from PIL import Image, ImageOps

# Pillow's reader of each format. `Image.open` would, for every damaged file, first load its readers of forty others.
READERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
}
BACKGROUND = 255  # white, under transparent pixels
BORDER = 0  # black, beside an image that `pad` made square
MOST_SCANS = (
    200  # of a progressive JPEG: encoders make about ten, and eleven bytes ask for one more pass over all pixels
)

# Reasons for quarantine. The card counts by them, so they are few and fixed; the detail beside each is free text.
MISSING = "missing"
UNREADABLE = "unreadable"
EMPTY = "empty file"
TOO_LARGE = "file too large"
NOT_AN_IMAGE = "not an image"
TOO_MANY_PIXELS = "too many pixels"
TRUNCATED = "truncated"
DAMAGED = "damaged"
UNSUPPORTED = "unsupported pixels"
CRASHED = "crashed the decoder"
TOO_SLOW = "took too long"


class Broken(Exception):
    """An input that goes to quarantine: one of the reasons above, and what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Rules(NamedTuple):
    """What is asked of every image.

    side: pixels of the square that comes out. resize: bring other sizes to it; without, they are left undecoded.
    channels: 1 or 3 that come out. max_pixels, max_bytes, max_seconds (of a processor): more is absurd.
    """

    side: int
    resize: bool
    channels: Literal[1, 3]
    fit: Literal["crop", "pad", "stretch"]
    max_pixels: int
    max_bytes: int
    max_seconds: int = 30


class Declared(NamedTuple):
    """What a file says of its image: width and height in pixels, and Pillow's mode."""

    width: int
    height: int
    mode: str


def read(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The bytes of a regular file of at most `max_bytes`. Raises Broken."""
    try:
        # Not blocking: opening a named pipe would otherwise wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        reason = "no such file: removed or renamed since it was listed, a link to nothing, or a name that is not UTF-8"
        raise Broken(MISSING, reason) from None
    except OSError as error:
        raise Broken(UNREADABLE, error.strerror or str(error)) from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Broken(UNREADABLE, "not a regular file")
        if found.st_size == 0:
            raise Broken(EMPTY)
        if found.st_size > max_bytes:
            raise Broken(TOO_LARGE, f"{found.st_size} bytes; data.max_bytes is {max_bytes}")
        data = os.read(handle, found.st_size)
        while len(data) < found.st_size and (more := os.read(handle, found.st_size - len(data))):
            data += more
        return data
    except OSError as error:
        raise Broken(UNREADABLE, error.strerror or str(error)) from None
    finally:
        os.close(handle)


def decode(data: bytes, rules: Rules) -> tuple[Declared, Image.Image | None]:
    """The image in `data` as the rules want it, L or RGB; None where its size differs and no resizing is asked for.

    Raises Broken.
    """
    with _opened(data) as image:
        declared = Declared(*image.size, image.mode)
        if declared.width * declared.height > rules.max_pixels:
            found = f"{declared.width} x {declared.height} declared; data.max_pixels is {rules.max_pixels}"
            raise Broken(TOO_MANY_PIXELS, found)
        if not rules.resize and image.size != (rules.side, rules.side):
            return declared, None
        return declared, _brought_to(image, rules)


def decode_onto(canvas: Image.Image, top: int, data: bytes, rules: Rules) -> tuple[Declared, bool]:
    """Like `decode`, but the image is drawn on a canvas of its width at row `top`; also says whether it was drawn.

    The canvas has the mode of the rules: L or RGB. Most data sets are small plain JPEGs of one size. Of the time that
    Pillow takes for one, two thirds go into reading its header and into making and emptying image objects; these are
    decoded straight onto the canvas, by the same C code to the same pixels.
    """
    plain = _plain_jpeg(data)
    if plain is not None and plain == (rules.side, rules.side, canvas.mode):
        check_container(data)
        decoder = Image.core.jpeg_decoder(canvas.mode, canvas.mode, "", 1, 0)
        decoder.setimage(canvas.im, (0, top, rules.side, top + rules.side))
        consumed, error = decoder.decode(data)
        if consumed >= 0 or error:  # as in `Image.frombytes`: -1 means done
            raise Broken(DAMAGED if error else TRUNCATED, f"the JPEG decoder stopped early (code {error})")
        return plain, True
    declared, image = decode(data, rules)
    if image is not None:
        canvas.paste(image, (0, top))
    return declared, image is not None


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image, opened and not yet decoded. Whatever is raised in the block is raised as Broken."""
    module, reader = READERS[check_container(data)]
    try:
        with getattr(importlib.import_module(module), reader)(io.BytesIO(data)) as image:
            yield image
    except Broken:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Broken(TOO_MANY_PIXELS, str(error)) from None
    except Exception as error:  # Pillow's decoders raise nearly every type on hostile input; each means the same here
        detail = f"{type(error).__name__}: {error}"
        raise Broken(TRUNCATED if "truncated" in detail.lower() else DAMAGED, detail) from None


def check_container(data: bytes) -> str:
    """The format of an image file, by how it begins. Raises Broken when it is none, or does not end as it should.

    Decoders are more lenient than we want to be: libjpeg and libpng take a file whose end is missing once they have
    all rows, and neither reports a PNG's wrong checksum.
    """
    if data.startswith(b"\xff\xd8\xff"):
        if data.rfind(b"\xff\xd9") < 0:
            raise Broken(TRUNCATED, "JPEG without its end marker")
        if (scans := data.count(b"\xff\xda")) > MOST_SCANS:
            raise Broken(DAMAGED, f"{scans} scans; a JPEG has {MOST_SCANS} at most")
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data)
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        declared = int.from_bytes(data[4:8], "little") + 8
        if declared > len(data) + 1:  # the last padding byte is often left out
            raise Broken(TRUNCATED, f"WebP declares {declared} bytes, has {len(data)}")
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    raise Broken(NOT_AN_IMAGE, f"begins with {data[:8].hex(' ')}")


def _check_png(data: bytes) -> None:
    """Walks a PNG's chunks (length, kind, contents, CRC-32 of kind and contents) up to its end chunk."""
    at = 8
    while at + 12 <= len(data):
        after = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if after > len(data):
            break
        kind = data[at + 4 : at + 8]
        if zlib.crc32(data[at + 4 : after - 4]) != int.from_bytes(data[after - 4 : after], "big"):
            raise Broken(DAMAGED, f"PNG chunk {kind!r} has a wrong checksum")
        if kind == b"IEND":
            return
        at = after
    raise Broken(TRUNCATED, "PNG without its end chunk")


def _plain_jpeg(data: bytes) -> Declared | None:
    """What a JPEG declares that has no metadata but JFIF's, or None: anything out of the ordinary is left to Pillow.

    An encoder writes the same header before every image of one size, so the last one is remembered: what begins with
    the same bytes declares the same.
    """
    global _last_header
    header, declared = _last_header
    if data.startswith(header):
        return declared
    found = _frame_header(data)
    if found is None:
        return None
    end, declared = found
    _last_header = data[:end], declared
    return declared


_last_header: tuple[bytes, Declared | None] = (b"none yet", None)


def _frame_header(data: bytes) -> tuple[int, Declared] | None:
    """The frame header of a plain JPEG: where it ends, and what it says; or None."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):  # frame header: length 2, precision 1, height 2, width 2, components 1
            precision, components = data[at + 4], data[at + 9]
            if precision != 8 or components not in (1, 3):
                return None
            height, width = (data[at + 5] << 8) | data[at + 6], (data[at + 7] << 8) | data[at + 8]
            return at + 10, Declared(width, height, "L" if components == 1 else "RGB")
        if marker not in (0xE0, 0xDB, 0xC4, 0xDD, 0xFE):  # JFIF, quantisation, Huffman, restart interval, comment
            return None
        at += 2 + ((data[at + 2] << 8) | data[at + 3])
    return None


def _brought_to(image: Image.Image, rules: Rules) -> Image.Image:
    """The opened image, decoded, upright, at the side and channels of the rules: L or RGB."""
    if image.size != (rules.side, rules.side):
        # Enough for what comes after: both filters see at least two pixels for each one of theirs.
        short, long = sorted(image.size)
        kept = long if rules.fit == "pad" else short
        scale = 2 * rules.side / kept
        image.draft(None, (round(image.width * scale), round(image.height * scale)))  # only JPEG heeds it
    image.load()
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    return _with_channels(_over_white(fitted(_eight_bits(image), rules.side, rules.fit)), rules.channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Any mode to L, LA, RGB or RGBA."""
    if image.mode.startswith("I;16"):
        import numpy as np  # here, because almost no worker needs it

        deep = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Broken(UNSUPPORTED, f"mode {image.mode}: pixels of 32 bits have no known range")
    if image.has_transparency_data:
        return (
            image if image.mode in ("LA", "RGBA") else image.convert("LA" if image.mode in ("1", "L", "La") else "RGBA")
        )
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def fitted(image: Image.Image, side: int, fit: str) -> Image.Image:
    """The image as a square of `side` pixels by the rule `fit`; the same object where it is one already."""
    width, height = image.size
    if (width, height) == (side, side):
        return image
    if fit == "stretch":
        return image.resize((side, side), Image.Resampling.LANCZOS)
    if fit == "crop":
        short = min(width, height)
        left, top = (width - short) // 2, (height - short) // 2
        box = (left, top, left + short, top + short)
        return image.crop(box) if short == side else image.resize((side, side), Image.Resampling.LANCZOS, box=box)
    long = max(width, height)
    inner = (max(1, round(width * side / long)), max(1, round(height * side / long)))
    smaller = image if inner == image.size else image.resize(inner, Image.Resampling.LANCZOS)
    square = Image.new(image.mode, (side, side), _opaque(image.mode, BORDER))
    square.paste(smaller, ((side - inner[0]) // 2, (side - inner[1]) // 2))
    return square


def _opaque(mode: str, value: int) -> int | tuple[int, ...]:
    """A gray level as a colour of `mode`, without transparency."""
    colours: dict[str, int | tuple[int, ...]] = {
        "L": value,
        "LA": (value, 255),
        "RGB": (value, value, value),
        "RGBA": (value, value, value, 255),
    }
    return colours[mode]


def _over_white(image: Image.Image) -> Image.Image:
    """LA to L and RGBA to RGB; L and RGB as they are."""
    if image.mode not in ("LA", "RGBA"):
        return image
    page = Image.new(image.mode, image.size, _opaque(image.mode, BACKGROUND))
    if image.mode == "RGBA":
        return Image.alpha_composite(page, image).convert("RGB")
    return Image.composite(image.getchannel("L"), page.getchannel("L"), image.getchannel("A"))


def _with_channels(image: Image.Image, channels: Literal[1, 3]) -> Image.Image:
    """L or RGB to the number of channels asked for."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def content_digest(pixels: bytes | memoryview, channels: int) -> bytes:
    """Digest (16 bytes) of what is seen: gray pixels are the same image whether stored once or three times."""
    if channels == 3 and pixels[0] == pixels[1] == pixels[2]:  # one pixel first: it settles most cases
        pixels = bytes(pixels)
        red = pixels[0::3]
        if red == pixels[1::3] and red == pixels[2::3]:
            pixels = red
    # Processors have instructions for SHA-256: of all pixels, it takes half the time of others.
    return hashlib.sha256(pixels).digest()[:16]


def draw_lot(content: bytes, seed: int) -> bytes:
    """The place (8 bytes) of an image in the shuffled order: a hash of its contents, keyed by the run's seed.

    An image's lot depends on no other image, so a data set that grows keeps nearly all of its split.
    """
    return hashlib.blake2b(content, digest_size=8, key=seed.to_bytes(8, "little")).digest()
