"""No image file takes the machine down: bombs, endless work, and ten thousand damaged files."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from genforge.data import decoding
from genforge.data.decoding import Rules
from genforge.data.decoding_pool import decode_all
from genforge.data.decoding_worker import FACTS, Job
from tests.benchmarks.damaged_images import PNG_SIGNATURE, packed, png_chunk

RULES = Rules(side=16, resize=True, channels=3, fit="crop", max_pixels=64_000_000, max_bytes=256_000_000)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
ROOT = Path(__file__).parents[2]


def png(*chunks: bytes, side: int = 16) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    rows = zlib.compress(bytes(16 * (1 + 3 * 16)))
    return PNG_SIGNATURE + header + b"".join(chunks) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def unpacks_to(size: int) -> bytes:
    """zlib data of zeros: a thousandth of what they unpack to. Each MiB is packed alike, so one is packed."""
    packer = zlib.compressobj(9)
    first, again = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * ((size >> 20) - 1) + packer.flush()


def tiff(width: int, height: int, entries: list[tuple[int, int, int, int]], pages: int = 1) -> bytes:
    """A little-endian TIFF of gray pixels without compression, `pages` times the same. entries: tag, type, count,
    value."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), *entries]
    length = 2 + 12 * len(tags) + 4
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    following = [8 + number * length for number in range(1, pages)] + [0]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(page + struct.pack("<I", place) for place in following)


def gif(frames: int, size: tuple[int, int] = (16, 16)) -> bytes:
    whole = packed(NOISE.convert("P", palette=Image.Palette.ADAPTIVE), "GIF")
    start = whole.index(b",", 13 + 768)
    frame = bytearray(whole[start:-1])
    frame[5:9] = struct.pack("<HH", *size)
    return whole[:start] + bytes(frame) * frames + b";"


def jpeg_of_scans(scans: int, side: int) -> bytes:
    """A progressive JPEG of gray pixels whose last scan comes again and again: each is a pass over all pixels."""
    whole = packed(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    frame, last = whole.index(b"\xff\xc2"), whole.rindex(b"\xff\xda")
    sized = whole[: frame + 5] + struct.pack(">HH", side, side) + whole[frame + 9 : last]
    return sized + whole[last:-2] * scans + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes([0x02, 0, 0, 0])  # animated
    chunk += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    still = packed(NOISE, "WEBP")[12:]
    body = bytes(6) + (15).to_bytes(3, "little") * 2 + bytes(4) + still
    chunk += (b"ANMF" + struct.pack("<I", len(body)) + body) * 3
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def bmp(width: int, height: int) -> bytes:
    data = bytearray(packed(NOISE, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


GOOD = ""
BOMBS: dict[str, tuple[bytes, str]] = {
    "declared.png": (png(side=60_000), decoding.TOO_MANY_PIXELS),
    "declared.jpeg": (jpeg_of_scans(1, 65_500), decoding.TOO_MANY_PIXELS),
    "declared.webp": (webp(16_000, 16_000), decoding.TOO_MANY_PIXELS),
    "declared.bmp": (bmp(60_000, 60_000), decoding.TOO_MANY_PIXELS),
    "declared-upside-down.bmp": (bmp(60_000, -60_000), decoding.TOO_MANY_PIXELS),
    "declared.tiff": (tiff(60_000, 60_000, [(273, 4, 1, 8), (279, 4, 1, 99)]), decoding.TOO_MANY_PIXELS),
    "declared.gif": (gif(1, (60_000, 60_000)), decoding.TOO_MANY_PIXELS),
    "text.png": (png(png_chunk(b"iTXt", b"Title\0\1\0\0\0" + unpacks_to(1 << 30))), decoding.DAMAGED),
    "texts.png": (png(*[png_chunk(b"zTXt", b"T\0\0" + zlib.compress(bytes(1 << 20)))] * 99), decoding.DAMAGED),
    "profile.png": (png(png_chunk(b"iCCP", b"icc\0\0" + unpacks_to(1 << 30))), decoding.DAMAGED),
    "pixels.png": (PNG_SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
                   + png_chunk(b"IDAT", unpacks_to(1 << 30)) + png_chunk(b"IEND", b""), GOOD),
    "pages.tiff": (tiff(16, 16, [(273, 4, 1, 0), (279, 4, 1, 256), (278, 4, 1, 16)], pages=50_000), GOOD),
    "strips.tiff": (tiff(16, 16, [(273, 4, 1 << 30, 8), (279, 4, 1 << 30, 8)]), decoding.DAMAGED),
    "frames.gif": (gif(5000), GOOD),
    "scans.jpeg": (jpeg_of_scans(100_000, 7000), decoding.DAMAGED),
    "few-scans.jpeg": (jpeg_of_scans(100, 1000), GOOD),
}  # fmt: skip


def test_bombs_of_every_format_cost_little_memory_and_time(tmp_path: Path) -> None:
    for name, (data, _) in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "scratch").write_bytes(bytes(len(BOMBS) * 16 * 16 * 3))
    reasons, memory = {}, 0
    others = {child.pid for child in psutil.Process().children()}
    for _, columns in decode_all(Job(str(tmp_path), RULES, 0, str(tmp_path / "scratch")), list(BOMBS), processes=1):
        reasons = dict(zip(BOMBS, columns[FACTS.index("reason")], strict=True))
        (worker,) = [child for child in psutil.Process().children() if child.pid not in others]
        status = Path(f"/proc/{worker.pid}/status").read_text()
        memory = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]  # MiB
        assert worker.cpu_times().user < 20
    assert reasons == {name: reason for name, (_, reason) in BOMBS.items()}
    assert memory < 250


def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str) -> None:
    """Workers run `deed` when they take the digest of a content that ends with `deadly`."""
    (tmp_path / "poison").mkdir()
    (tmp_path / "poison" / "sitecustomize.py").write_text(
        "import hashlib, time\n"
        "whole = hashlib.blake2b\n"
        "def deadly(data=b'', **options):\n"
        f"    if bytes(data).endswith(b'deadly'): {deed}\n"
        "    return whole(data, **options)\n"
        "hashlib.blake2b = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "poison"), os.environ.get("PYTHONPATH", "")]))


def test_a_file_that_keeps_its_decoder_busy_for_ever_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(tmp_path, monkeypatch, "[None for _ in iter(int, 1)]")
    paths = [f"{number}.png" for number in range(3)]
    for path in paths:
        (tmp_path / path).write_bytes(packed(NOISE, "PNG") + b"deadly" * (path == "1.png"))
    (tmp_path / "scratch").write_bytes(bytes(len(paths) * 16 * 16 * 3))
    job = Job(str(tmp_path), RULES._replace(max_seconds=1), 0, str(tmp_path / "scratch"))
    ((_, columns),) = decode_all(job, paths, processes=1)
    assert columns[FACTS.index("reason")] == ("", decoding.TOO_SLOW, "")
    assert columns[FACTS.index("detail")] == ("", "took longer than 1 s", "")


def test_workers_end_when_the_one_they_work_for_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(tmp_path, monkeypatch, "time.sleep(0.5)")
    paths = [f"{number}.png" for number in range(200)]
    for path in paths:
        (tmp_path / path).write_bytes(packed(NOISE, "PNG") + b"deadly")
    (tmp_path / "scratch").write_bytes(bytes(len(paths) * 16 * 16 * 3))
    program = (
        "from genforge.data.decoding_pool import decode_all; from genforge.data.decoding_worker import Job\n"
        f"list(decode_all(Job({str(tmp_path)!r}, {tuple(RULES)!r}, 0, {str(tmp_path / 'scratch')!r}), {paths!r}, 1))"
    ).replace("(16, True", "__import__('genforge.data.decoding').data.decoding.Rules(16, True")
    parent = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while not (workers := psutil.Process(parent.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)  # its 200 files would take 100 seconds
    assert workers and not alive


@pytest.mark.slow
def test_ten_thousand_damaged_files_neither_crash_nor_hang_nor_fill_the_memory() -> None:
    """Those of a size that is just allowed take most of the time: so a smaller one is the largest here."""
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "fuzz_prepare.py"), "--files", "10000"]
    command += ["--max-pixels", "4000000"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["counts"]["inputs"] == 10_000 + found["whole"]
    assert found["whole_lost"] == [] and found["crashed"] == []
    assert found["counts"]["quarantined"] > 5_000 and found["counts"]["kept"] > 1_000
    known = {decoding.DAMAGED, decoding.TRUNCATED, decoding.TOO_MANY_PIXELS, decoding.NOT_AN_IMAGE, decoding.EMPTY}
    assert set(found["reasons"]) <= known
    assert found["workers"] <= 2  # none had to be started again
    assert found["parent_grew_by"] < 200  # MiB
    assert found["highest_worker"] < 250  # MiB; 4 million pixels at 16 bytes each are 61
