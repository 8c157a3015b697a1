"""Many small JPEGs decoded at once, as the strips of one TIFF.

Of the time that a JPEG of 32x32 pixels takes, a quarter is decoding; the rest goes into making a decoder and taking it
down again (libjpeg-turbo 3.2 asks the processor three times what it can do, and in a virtual machine each answer takes
microseconds). A TIFF may hold its strips as whole JPEG streams (Adobe's TIFF Technical Note 2), and libtiff, which
Pillow reads TIFFs with, decodes all of them with one decoder: the same library with the same settings, so the same
pixels to the bit.

Nothing may be taken here that would be refused alone. libjpeg asks libtiff for more bytes where a file ends too early,
and gets an invented end; a decoder that is used again still has the tables of the file before. So a sheet holds only
files that begin with the same bytes up to their scan, all tables among them, and in whose scan no marker stands but
that of its end: no file can end early, nor use what it did not bring. Whatever else there is, and all files of a sheet
that libtiff refuses, are decoded one by one (`decoding.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

LARGEST = 256  # pixels of a side: what is saved, 20 microseconds an image, is nothing beside decoding a larger one
START, END = b"\xff\xd8", b"\xff\xd9"
SHORT, LONG = 3, 4  # types of a TIFF's fields
FIELDS = {  # those that a sheet needs, by their numbers, which a TIFF wants in order
    "width": 256,
    "height": 257,
    "bits a sample": 258,
    "compression": 259,
    "meaning": 262,
    "beginnings": 273,
    "samples": 277,
    "rows a strip": 278,
    "lengths": 279,
    "sharing": 530,
}
WHERE = 8  # bytes from the start of a TIFF to its fields
TABLES = (0xDB, 0xC4, 0xFE)  # quantisation, Huffman, comment: what may stand between JFIF's marker and the scan
FRAME, SCAN = 0xC0, 0xDA


class Header(NamedTuple):
    """The bytes of a JPEG up to its scan, the side of the square image that they declare, Pillow's mode (L or RGB), and
    how many pixels share a value of colour, across and down."""

    begins: bytes
    side: int
    mode: str
    shared: tuple[int, int]


def header_of(data: bytes) -> Header | None:
    """The header of a baseline JPEG with JFIF's marker, one scan of all components and a square image that is not too
    large; or None. None too where Pillow was built without libtiff."""
    if not hasattr(Image.core, "libtiff_decoder") or data[:4] != START + b"\xff\xe0" or data[6:11] != b"JFIF\0":
        return None
    at = 4 + int.from_bytes(data[4:6], "big")
    frame: tuple[int, int, tuple[int, int]] | None = None  # side, components, shared
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, after = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if after > len(data):
            return None
        if marker == FRAME and frame is None:
            frame = _frame(data[at + 4 : after])
            if frame is None:
                return None
        elif marker == SCAN:
            if frame is None or data[at + 4] != frame[1]:
                return None
            if frame[0] > LARGEST:
                return None
            return Header(data[:after], frame[0], "L" if frame[1] == 1 else "RGB", frame[2])
        elif marker not in TABLES:
            return None
        at = after
    return None


def _frame(fields: bytes) -> tuple[int, int, tuple[int, int]] | None:
    """Side, components and sharing of a frame: precision 1, height 2, width 2, components 1; for each its number,
    samples across and down in half a byte each, and its table."""
    if len(fields) < 9 or fields[0] != 8 or fields[1:3] != fields[3:5] or len(fields) != 6 + 3 * fields[5]:
        return None
    side, components, first = int.from_bytes(fields[1:3], "big"), fields[5], (fields[7] >> 4, fields[7] & 15)
    if components == 1 and first == (1, 1):
        return side, 1, first
    if components == 3 and first in ((1, 1), (2, 1), (2, 2)) and fields[10] == fields[13] == 0x11:
        return side, 3, first
    return None


def belongs(data: bytes, header: Header) -> bool:
    """Whether a file can stand on a sheet of files with this header. It is no longer than its pixels, so that a sheet's
    files take no more memory than they."""
    after = len(header.begins)
    return (
        data.startswith(header.begins)
        and data.endswith(END)
        and len(data) - after <= header.side**2 * len(header.mode)
        # In a scan the byte FF is followed by 0, or begins a marker: here only that of the end.
        and data.count(b"\xff", after) == data.count(b"\xff\0", after) + 1
    )


def decode_sheet(canvas: Image.Image, header: Header, files: Sequence[bytes | None]) -> bool:
    """Decode files that belong to the header onto a canvas as wide as one, below each other; False when one is refused.

    Where there is None, the canvas keeps what it holds; but when one is refused, it holds what means nothing.
    """
    side = header.side
    boxes = [(0, place * side, side, (place + 1) * side) for place, data in enumerate(files) if data is None]
    others = [canvas.crop(box) for box in boxes]
    decoder = Image.core.libtiff_decoder(header.mode, header.mode, 0, WHERE)
    decoder.setimage(canvas.im, (0, 0, side, side * len(files)))
    _, error = decoder.decode(_tiff(header, files))
    for other, box in zip(others, boxes, strict=True):
        canvas.paste(other, box)
    return not error


def _tiff(header: Header, files: Sequence[bytes | None]) -> bytes:
    """A TIFF whose strips are the files. A strip without a file has another's."""
    colours, count = len(header.mode), len(files)
    present = [data for data in files if data is not None]
    lists = WHERE + 2 + 12 * len(FIELDS) + 4  # bits a sample, padding, beginnings and lengths of strips
    values = {
        "width": (LONG, 1, header.side),
        "height": (LONG, 1, header.side * count),
        "bits a sample": (SHORT, colours, 8 if colours == 1 else lists),
        "compression": (SHORT, 1, 7),  # JPEG
        "meaning": (SHORT, 1, 1 if colours == 1 else 6),  # black is 0, or YCbCr
        "beginnings": (LONG, count, lists + 8),
        "samples": (SHORT, 1, colours),
        "rows a strip": (LONG, 1, header.side),
        "lengths": (LONG, count, lists + 8 + 4 * count),
        "sharing": (SHORT, 2, header.shared[0] | header.shared[1] << 16),
    }
    begin = first = lists + 8 + 8 * count
    begins, lengths = [], []
    for data in files:
        begins.append(begin if data is not None else first)
        lengths.append(len(data if data is not None else present[0]))
        begin += len(data or b"")
    parts = [b"II*\0", struct.pack("<IH", WHERE, len(FIELDS))]
    parts += [struct.pack("<HHII", FIELDS[name], *value) for name, value in values.items()]
    parts += [bytes(4), struct.pack("<4H", 8, 8, 8, 0), struct.pack(f"<{2 * count}I", *begins, *lengths)]
    return b"".join(parts + present)
