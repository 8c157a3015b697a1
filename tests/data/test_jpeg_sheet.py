"""Many JPEGs decoded together become what each becomes alone, and nothing is taken that would be refused alone."""

from __future__ import annotations

import io
import mmap
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genforge.data import decoding_worker
from genforge.data.decoding import Rules
from genforge.data.decoding_worker import FACTS, Columns, Job, work
from genforge.data.jpeg_sheet import LARGEST, belongs, decode_sheet, header_of

SIDE = 16
NOISE = np.random.default_rng(0).integers(0, 256, (60, SIDE, SIDE, 3), dtype=np.uint8)


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"quality": 30, "comment": b"hi"}),
        ("L", {}),
    ],
)
def test_a_sheet_has_the_pixels_that_its_files_have_alone(mode: str, options: dict[str, object]) -> None:
    files: list[bytes | None] = [jpeg(pixels, mode, **options) for pixels in NOISE]
    assert files[0] is not None and (header := header_of(files[0])) is not None
    assert header.mode == mode and all(belongs(data, header) for data in files if data)
    alone = [np.asarray(Image.open(io.BytesIO(data))) for data in files if data]
    canvas = Image.new(mode, (SIDE, SIDE * len(files)), "white")
    for empty in (0, 7, len(files) - 1):
        files[empty], alone[empty] = None, np.full_like(alone[empty], 255)
    assert decode_sheet(canvas, header, files)
    assert np.array_equal(np.asarray(canvas), np.concatenate(alone))


def test_what_is_out_of_the_ordinary_has_no_header_for_a_sheet() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert header_of(jpeg(NOISE[0])) is not None
    for data in [
        jpeg(NOISE[0], progressive=True),
        jpeg(NOISE[0], restart_marker_blocks=1),
        jpeg(NOISE[0], exif=exif),
        jpeg(NOISE[0], "CMYK"),
        jpeg(NOISE[0], "L", subsampling=1),
        jpeg(NOISE[0], icc_profile=b"profile"),
        jpeg(NOISE[0][:8]),
        jpeg(np.zeros((LARGEST + 1, LARGEST + 1, 3), np.uint8)),
        jpeg(NOISE[0]).replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01"),  # a scan of one component
        jpeg(NOISE[0])[:300],
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"",
    ]:
        assert header_of(data) is None


def test_no_file_belongs_that_ends_early_or_has_a_marker_in_its_scan() -> None:
    data, other = jpeg(NOISE[0]), jpeg(NOISE[1])
    header = header_of(data)
    assert header is not None and belongs(other, header)
    middle = len(header.begins) + 40
    for wrong in [
        other[:-2],
        other + b"\0",
        other[:middle] + b"\xff\xc4" + other[middle:],
        other[:middle] + b"\xff\xd9" + other[middle:],
        other[:middle] + bytes(3 * SIDE * SIDE) + other[middle:],
        jpeg(NOISE[1], quality=50),
        jpeg(NOISE[1], optimize=True),
        b"",
    ]:
        assert not belongs(wrong, header)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file with a byte changed, bytes lost or put in, or an end too early; half of the time none of these."""
    at = chance.randrange(2, len(data))
    some = chance.randbytes(chance.randrange(1, 30))
    ways = [data[:at] + some[:1] + data[at + 1 :], data[:at] + data[at + len(some) :], data[:at] + some + data[at:]]
    ways += [data[:at] + b"\xff" + chance.choice([b"\xd9", b"\xc4", b"\xda", b"\xff"]) + data[at + 2 :], data[:at]]
    return chance.choice([data] * len(ways) + ways)


def through_the_worker(folder: Path, paths: list[str], channels: int) -> tuple[Columns, list[bytes]]:
    """Facts about files, and the pixels of those that are good."""
    scratch, size = folder / "scratch", SIDE * SIDE * channels
    scratch.write_bytes(bytes(len(paths) * size))
    rules = Rules(SIDE, False, channels, "crop", 10**6, 10**6)  # type: ignore[arg-type]
    with scratch.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        facts = work(Job(str(folder), rules, 0, str(scratch)), memory, 0, paths)
    drawn = [place for place, content in enumerate(facts[FACTS.index("content")]) if content]
    return facts, [scratch.read_bytes()[place * size : (place + 1) * size] for place in drawn]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_damaged_files_are_judged_as_they_are_alone(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    paths = [f"{number}.jpg" for number in range(600)]
    for number, path in enumerate(paths):
        options = chance.choice([{}] * 9 + [{"quality": 50}, {"progressive": True}])
        (tmp_path / path).write_bytes(damaged(jpeg(NOISE[number % len(NOISE)], mode, **options), chance))
    counts: list[int] = []

    def counted(canvas: Image.Image, header: object, files: list[bytes | None]) -> bool:
        counts.append(sum(data is not None for data in files))
        return decode_sheet(canvas, header, files)  # type: ignore[arg-type]

    channels = 1 if mode == "L" else 3
    monkeypatch.setattr(decoding_worker, "decode_sheet", counted)
    together = through_the_worker(tmp_path, paths, channels)
    monkeypatch.setattr(decoding_worker, "header_of", lambda data: None)
    alone = through_the_worker(tmp_path, paths, channels)
    assert together == alone
    assert len(counts) == 1 and counts[0] > 200
    reasons = set(alone[0][FACTS.index("reason")])
    assert {"", "truncated", "damaged"} <= reasons


def test_files_of_a_sheet_that_is_refused_are_decoded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{number}.jpg" for number in range(len(NOISE))]
    for pixels, path in zip(NOISE, paths, strict=True):
        (tmp_path / path).write_bytes(jpeg(pixels))
    whole = through_the_worker(tmp_path, paths, 3)

    def refused(canvas: Image.Image, header: object, files: object) -> bool:
        canvas.paste("red", (0, 0, *canvas.size))
        return False

    monkeypatch.setattr(decoding_worker, "decode_sheet", refused)
    assert through_the_worker(tmp_path, paths, 3) == whole


def test_a_few_files_alike_among_others_are_decoded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{number}.jpg" for number in range(len(NOISE))]
    for number, path in enumerate(paths):
        options = {} if number % 8 == 0 else {"quality": 20 + number}
        (tmp_path / path).write_bytes(jpeg(NOISE[number], **options))
    monkeypatch.setattr(decoding_worker, "TRIES", 1)
    monkeypatch.setattr(decoding_worker, "decode_sheet", None)  # not asked
    few = through_the_worker(tmp_path, paths, 3)
    monkeypatch.setattr(decoding_worker, "header_of", lambda data: None)
    assert few == through_the_worker(tmp_path, paths, 3)
