"""A process that decodes files and knows nothing else: `python -m genforge.data.decoding_worker`, fed through pipes.

It reads a file once, takes its digest from the same bytes, decodes it, and puts the pixels of a whole chunk of files
straight to their place in the scratch file, which it has mapped. Only digests, sizes and reasons travel back. Messages
are `marshal`led, each after its length in 8 bytes: plain values, which cannot run code.

Hostile input is what it is for: a file that takes longer than `max_seconds` of a processor ends the process, and so
does one that breaks the decoder's C code; more memory than an image within the limits can need is refused. The parent
sees who it was. A worker whose parent was killed ends after the file that it is at.
"""

from __future__ import annotations

import gc
import hashlib
import marshal
import math
import mmap
import os
import resource
import signal
import sys
import time
import warnings
from functools import lru_cache
from typing import IO, Any, NamedTuple, Self

from PIL import Image

from genforge.data.decoding import Broken, Declared, Rules, content_digest, decode_onto, draw_lot, read
from genforge.data.jpeg_sheet import Header, belongs, decode_sheet, header_of

WAITING = 10  # times max_seconds: the longest that a file may take by the clock, on a busy machine or a slow disk
OWN_MEMORY = 2 << 30  # bytes of address space for the interpreter and its libraries
BYTES_A_PIXEL = 16  # an RGBA image, its copy in another mode, and two more in passing

TRIES = 8  # files at the beginning of a chunk, one of which shows what header the others may have

NOTHING = Declared(0, 0, "")

# What is found out about a file. digest, content (16 bytes) and lot (8 bytes) are empty where there is none. `reason`
# is empty for a good file; a good file of another size, where no resizing was asked for, has no content.
FACTS = ("digest", "bytes", "width", "height", "mode", "content", "lot", "reason", "detail")
Columns = list[tuple[Any, ...]]  # a column a fact, in this order: much quicker to hand over than a row a file


class Job(NamedTuple):
    """What a worker needs to know: where files lie, what is asked of them, the seed of the lots, the scratch file.

    The pixels of file i, side x side x channels bytes, go to i times that size in the scratch file, which has room for
    all.
    """

    folder: str
    rules: Rules
    seed: int
    scratch: str


def send(pipe: IO[bytes], message: Any) -> None:
    data = marshal.dumps(message)
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next message. Raises EOFError when the other side is gone."""
    length = pipe.read(8)
    data = pipe.read(int.from_bytes(length, "little"))
    if len(length) < 8 or len(data) < int.from_bytes(length, "little"):
        raise EOFError
    return marshal.loads(data)  # noqa: S302  (from our own parent or child)


class Found(NamedTuple):
    """What is known of a file before its pixels are looked at."""

    digest: bytes
    length: int
    declared: Declared
    drawn: bool
    reason: str = ""
    detail: str = ""


def work(job: Job, scratch: mmap.mmap, start: int, paths: list[str]) -> Columns:
    """One chunk of files, of which the first is number `start`: facts are returned, pixels are written."""
    channels = job.rules.channels
    canvas = _canvas("L" if channels == 1 else "RGB", job.rules.side, len(paths))
    found = _draw(job, canvas, paths, sheets=True) or _draw(job, canvas, paths, sheets=False)
    pixels = memoryview(canvas.tobytes())
    size = len(pixels) // len(paths)
    scratch[start * size : start * size + len(pixels)] = pixels

    rows: list[tuple[Any, ...]] = []
    for place, (digest, length, declared, drawn, reason, detail) in enumerate(found):
        content = content_digest(pixels[place * size : (place + 1) * size], channels) if drawn else b""
        lot = draw_lot(content, job.seed) if drawn else b""
        rows.append((digest, length, *declared, content, lot, reason, detail))
    return list(zip(*rows, strict=True))


def _draw(job: Job, canvas: Image.Image, paths: list[str], sheets: bool) -> list[Found]:
    """Read files and decode them onto the canvas, below each other. An empty list: a sheet was refused."""
    rules = job.rules
    found: list[Found] = []
    header: Header | None = None  # of the last file that was decoded alone, while nothing is on the sheet
    sheet: list[bytes | None] = [None] * len(paths)  # files that are decoded together, at the end
    together, alike = 0, NOTHING  # how many, and what all of them declare
    with _Clock(rules.max_seconds) as clock:
        for place, path in enumerate(paths):
            clock.wind()
            data, digest = b"", b""
            try:
                data = read(f"{job.folder}/{path}", rules.max_bytes)
                digest = hashlib.blake2b(data, digest_size=16).digest()
                if header is not None and belongs(data, header):
                    sheet[place] = data
                    together += 1
                    found.append(Found(digest, len(data), alike, True))
                    continue
                declared, drawn = decode_onto(canvas, place * rules.side, data, rules)
                found.append(Found(digest, len(data), declared, drawn))
                if sheets and drawn and not together and place < TRIES:
                    header, alike = header_of(data), declared
                    if header is not None and (header.side, header.mode) != (rules.side, canvas.mode):
                        header = None
            except Broken as broken:
                found.append(Found(digest, len(data), NOTHING, False, broken.reason, broken.detail))
        if header is None or not together:
            return found
        if together < len(paths) // 4:  # a sheet decodes something in every place
            for place, waiting in enumerate(sheet):
                if waiting is None:
                    continue
                clock.wind()
                try:
                    decode_onto(canvas, place * rules.side, waiting, rules)
                except Broken as broken:
                    digest = found[place].digest
                    found[place] = Found(digest, len(waiting), NOTHING, False, broken.reason, broken.detail)
        elif not decode_sheet(canvas, header, sheet):
            return []
    return found


class _Clock:
    """Ends this process where a file takes too long, or when its parent is gone.

    The default action of both signals ends the process, in the middle of C code too. Setting them costs as much as
    reading a small file, so they are set with a bit to spare, and again when that is used up.
    """

    SPARE = 0.25  # seconds

    def __init__(self, seconds: int) -> None:
        self._seconds, self._parent, self._wound = seconds, os.getppid(), -math.inf

    def __enter__(self) -> Self:
        return self

    def wind(self) -> None:
        """The next file begins: it has all of its time."""
        if (now := time.monotonic()) < self._wound + self.SPARE:
            return
        if os.getppid() != self._parent:
            sys.exit(f"the process {self._parent} that asked for this has ended")
        signal.setitimer(signal.ITIMER_PROF, self._seconds + self.SPARE)
        signal.alarm(WAITING * self._seconds + 1)
        self._wound = now

    def __exit__(self, *failure: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


@lru_cache(maxsize=2)
def _canvas(mode: str, side: int, count: int) -> Image.Image:
    """Room for `count` images below each other. It is used again and again: what is broken leaves old pixels there."""
    return Image.new(mode, (side, side * count))


def main() -> None:
    """Serve jobs and their chunks until the parent closes the pipe."""
    incoming, outgoing = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints does not end up between messages
    gc.freeze()  # what is imported stays; and what one chunk needs is no reason to look for circles in all of it
    gc.set_threshold(100_000)
    warnings.simplefilter("ignore")  # odd metadata is no fault
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    job, scratch = None, None
    while True:
        try:
            message = receive(incoming)
        except EOFError:
            return
        if len(message) == len(Job._fields):
            folder, rules, seed, scratch_path = message
            job = Job(folder, Rules(*rules), seed, scratch_path)
            scratch = _begin(job)
            send(outgoing, "ready")
        else:
            assert job is not None and scratch is not None
            send(outgoing, work(job, scratch, *message))


def _begin(job: Job) -> mmap.mmap:
    """The scratch file, with this process's limits set for the job."""
    with open(job.scratch, "r+b") as file:  # noqa: PTH123  (pathlib would double what is imported)
        scratch = mmap.mmap(file.fileno(), 0)
    memory = OWN_MEMORY + len(scratch) + BYTES_A_PIXEL * job.rules.max_pixels + 2 * job.rules.max_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    Image.MAX_IMAGE_PIXELS = job.rules.max_pixels  # also for frames that are larger than the header says
    return scratch


if __name__ == "__main__":
    main()
    os._exit(0)  # all is written, and somebody waits: no tidying up
