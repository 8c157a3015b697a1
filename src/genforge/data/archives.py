"""Archives of images, unpacked so that they can do no harm: .zip, .tar, .tar.gz (.tgz), .tar.bz2, .tar.xz.

Nothing of an archive decides where we write: every name is checked, files are made by us with modes of our own, and
links, devices and everything else that is no plain file are left out. An archive with a name that would lead outside of
its folder (`../`, an absolute path, a drive) is refused as a whole. What comes out is counted while it does, and not by
what the archive says of itself: bytes, files, and how many times its own size it becomes.

Left out, with a note: archives inside of archives, files larger than `data.max_bytes`, and names that come twice.
Files whose names begin with a dot, and what macOS adds (`__MACOSX`), are passed over, as in a folder.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from genforge.progress import Bar
from genforge.settings import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
INNER = (*SUFFIXES, ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
AT_ONCE = 1 << 20  # bytes
SMALL = 64 << 20  # bytes that any archive may become, however small it is
LONGEST_HEADER = 1 << 20  # bytes of a tar's extended header, which Python reads as a whole
XZ_MEMORY = 256 << 20  # bytes: `xz -9` needs 65 MiB to unpack
LONGEST_NAME = 255  # bytes of a part of a path: what file systems take

# Why a member was left out.
NO_FILE = "a link, a device or another thing that is no plain file"
NESTED = "an archive inside of the archive"
LARGE = "larger than data.max_bytes"
TWICE = "a name that came before"
LONG = "a name that is too long"


class Limits(NamedTuple):
    """What an archive may become. bytes_a_file: a larger file is left out. bytes, files: all together. ratio: how many
    times the archive's own size."""

    bytes_a_file: int
    bytes: int
    files: int
    ratio: int


class _Bad(Exception):
    """An archive that is refused; the text says why."""


@dataclass
class Unpacked:
    """files: how many were written. left_out: (name, reason) of members that were not."""

    files: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What was left out, for people: a line a reason."""
        first = {reason: name for name, reason in reversed(self.left_out)}
        counts = Counter(reason for _, reason in self.left_out)
        return [f"left out: {reason}: {number}, such as {first[reason]!r}" for reason, number in counts.most_common()]


class _Member(NamedTuple):
    """name as the archive has it. size: bytes, as it declares; None: no plain file."""

    name: str
    size: int | None
    open: Callable[[], Any]  # the contents, to read


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, into: Path, limits: Limits) -> Unpacked:
    """Write the files of `archive` below the new folder `into`.

    Raises:
        UserError: the archive is damaged or encrypted, becomes more than the limits allow, or has a name that leads
            outside of its folder. What was written until then is left to whoever made the folder around `into`.
    """
    into.mkdir()
    try:
        with archive.open("rb") as file:
            budget = _Budget(limits, archive.stat().st_size)
            members = _of_zip(file) if archive.name.lower().endswith(".zip") else _of_tar(file, archive.name, budget)
            return _write(members, into, limits, budget, Bar(f"unpacking {archive.name}", 0, "files"))
    except _Bad as error:
        raise UserError(f"data.folder: {archive}: {error}") from None
    except NotImplementedError as error:  # zipfile: a way of packing that Python does not know
        raise UserError(f"data.folder: {archive} cannot be unpacked here ({error}); pack it again as .tar.gz") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"data.folder: {archive} is damaged ({str(error) or type(error).__name__}); fetch or make it again"
        ) from None
    except RuntimeError as error:  # zipfile: "File ... is encrypted, password required for extraction"
        raise UserError(f"data.folder: {archive} cannot be unpacked ({error}); pack it without a password") from None
    except OSError as error:  # gzip's BadGzipFile, bz2's and the disk's own
        what = "cannot be unpacked" if error.errno else "is damaged"
        raise UserError(f"data.folder: {archive} {what} ({error.strerror or error})") from None


class _Budget:
    """How much an archive has become, and the end of our patience with it."""

    def __init__(self, limits: Limits, packed: int) -> None:
        self._limits, self._most = limits, max(SMALL, limits.ratio * packed)
        self._bytes = self._files = 0

    def spend(self, amount: int) -> None:
        self._bytes += amount
        if self._bytes > self._limits.bytes:
            raise _Bad(f"becomes more than data.max_unpacked_bytes = {self._limits.bytes}; raise it if that is right")
        if self._bytes > self._most:
            raise _Bad(
                f"becomes more than data.max_unpacked_ratio = {self._limits.ratio} times its own size, as a bomb does; "
                f"raise it if that is right, or unpack it by hand"
            )

    def one_file(self) -> None:
        self._files += 1
        if self._files > self._limits.files:
            raise _Bad(f"holds more than data.max_unpacked_files = {self._limits.files}; raise it if that is right")


def _write(members: Iterator[_Member], into: Path, limits: Limits, budget: _Budget, bar: Bar) -> Unpacked:
    done = Unpacked()
    with bar:
        for member in members:
            budget.one_file()
            parts = checked_parts(member.name)
            if any(part.startswith(".") for part in parts) or parts[0] == "__MACOSX":
                continue
            path = into.joinpath(*parts)
            if reason := _why_not(member, parts, path, limits):
                done.left_out.append((member.name, reason))
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                target = path.open("xb")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise _Bad(f"{member.name!r} is a file and a folder too") from None
            with target, member.open() as source:
                _copy(source, target, member, budget)
            done.files += 1
            bar.advance(1)
    return done


def _copy(source: IO[bytes], target: IO[bytes], member: _Member, budget: _Budget) -> None:
    written = 0
    while block := source.read(AT_ONCE):
        written += len(block)
        if member.size is None or written > member.size:
            raise _Bad(f"{member.name!r} is larger than the archive says")
        if not isinstance(source, tarfile.ExFileObject):  # of a tar, the whole stream is counted
            budget.spend(len(block))
        target.write(block)


def _why_not(member: _Member, parts: list[str], path: Path, limits: Limits) -> str:
    if member.size is None:
        return NO_FILE
    if parts[-1].lower().endswith(INNER):
        return NESTED
    if member.size > limits.bytes_a_file:
        return LARGE
    if any(len(part.encode("utf-8", "surrogateescape")) > LONGEST_NAME for part in parts) or len(str(path)) > 4000:
        return LONG
    return TWICE if path.is_file() else ""


def checked_parts(name: str) -> list[str]:
    """The parts of a member's name. Raises _Bad when it leads anywhere but below the folder."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name or not parts:
        raise _Bad(f"holds the name {name!r}, which leads outside of its folder; pack it again without such names")
    return parts


def _of_zip(file: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            kind = entry.external_attr >> 28 if entry.create_system == 3 else 0  # Unix: the type bits of the mode
            plain = kind in (0, 0o10)
            yield _Member(entry.filename, entry.file_size if plain else None, partial(archive.open, entry))


def _of_tar(file: IO[bytes], name: str, budget: _Budget) -> Iterator[_Member]:
    stream = _Counted(_unpacked(file, name.lower()), budget)
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, bufsize=AT_ONCE) as archive:
        while (entry := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or memory would hold every header
            if entry.isdir():
                continue
            plain = entry.isreg() and entry.sparse is None
            yield _Member(entry.name, entry.size if plain else None, partial(archive.extractfile, entry))


def _unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    if name.endswith((".tar.gz", ".tgz")):
        return gzip.open(file)  # type: ignore[return-value]
    if name.endswith((".tar.bz2", ".tbz2")):
        return bz2.open(file)
    if name.endswith((".tar.xz", ".txz")):
        return io.BufferedReader(_Xz(file), AT_ONCE)
    return file


class _Header(tarfile.TarInfo):
    """A header of a tar. Python takes a damaged one for the end of the archive; here it is damage."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise _Bad(f"is damaged, or cut before its end mark ({error}); fetch or make it again") from None
        if not header.isreg() and header.size > LONGEST_HEADER and header.type in _EXTENDED:
            raise _Bad(f"has a header of {header.size} bytes, as a bomb does")
        return header


_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Counted(io.RawIOBase):
    """The stream inside a tar's packing. Every byte of it counts, also of headers, holes and what is left out."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._budget.spend(len(data))
        return data


class _Xz(io.RawIOBase):
    """One or several .xz streams, unpacked with a limit to memory, which Python's own `lzma.open` does not take."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._packed = file, b""
        self._decompressor = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._decompressor.eof:
                rest = (self._decompressor.unused_data or self._file.read(AT_ONCE)).lstrip(b"\0")
                if not rest:
                    return 0
                self._decompressor, self._packed = self._new(), rest
            elif self._decompressor.needs_input and not self._packed:
                self._packed = self._file.read(AT_ONCE)
                if not self._packed:
                    raise EOFError("the compressed stream has no end")
            data = self._decompressor.decompress(self._packed, len(buffer))
            self._packed = b""
            if data:
                buffer[: len(data)] = data
                return len(data)


def one_folder(into: Path) -> str:
    """The way from an unpacked folder to where its images are, `/` at its end: an archive often holds one folder, which
    holds all. Empty where files or several folders lie at the top."""
    way, here = "", into
    while len(entries := list(here.iterdir())) == 1 and entries[0].is_dir():
        if not any(entry.is_dir() for entry in entries[0].iterdir()):
            break  # a folder of files: the only class
        way, here = f"{way}{entries[0].name}/", entries[0]
    return way
