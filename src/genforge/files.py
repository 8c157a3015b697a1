"""Files that are whole or absent: atomic writes, digests, safe loading.

Nothing here can run code from a file: tensors are safetensors, arrays are NumPy without pickle, settings are YAML
without tags. Nor can a small file become large in memory: aliases, nesting and declared sizes are looked at first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from genforge.settings import UserError

SECONDS_TO_MARK = 1.0  # between the making of a temporary file and its lock: far more than it takes
LARGEST_YAML, LARGEST_JSON = 1 << 20, 256 << 20  # bytes
MOST_NODES = 100_000  # values of a YAML file


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """An open file that becomes `path` when the block ends: written aside, synced, renamed. An error leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with aside.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            _mark_as_ours(file.fileno(), fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` when the block ends, in place of what stood there. Nothing of it stays on an
    error. Where `path` is a link, it becomes what that leads to."""
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.mkdir()
    try:
        with _folder_of_ours(aside):
            yield aside
            if path.exists():
                old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
                with _folder_of_ours(path):
                    path.rename(old)
                    aside.rename(path)
                    shutil.rmtree(old)
            else:
                aside.rename(path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def check_new_folder(path: Path, option: str, ours: str = "") -> None:
    """Raises UserError unless a folder can be made at `path` without a loss: nothing is there, or an empty folder, or
    one with the file `ours`, which an earlier call has made.

    Args:
        option: how the user named it, for the message.
    """
    if path.exists() and not (path.is_dir() and ((ours and (path / ours).is_file()) or not any(path.iterdir()))):
        raise UserError(f"{option} {path}: is there already and not an empty folder; name another one")


def try_folder(folder: Path) -> None:
    """Raises OSError, which names the place, unless files can be made in `folder`, or a folder where it would be. That
    is tried, with a file that has no name: what may be written and what can be are two things (root, and /proc).
    """
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(there)) from None


_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
NO_ROOM = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # the disk is full, or what this user or this process may fill of it


@contextlib.contextmanager
def telling_of_no_room(what: str, path: Path, needed: int | None = None, remedy: str = "") -> Iterator[None]:
    """Turn a disk that is full, within the block, into a UserError: what was to be written where, how much room it
    takes and how much there is.

    Args:
        needed: bytes, where they are known. remedy: what to do after room was made; else "run again".
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        there = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
        takes = "" if needed is None else f"it takes {needed / 1e6:.1f} MB, and "
        free = f"{shutil.disk_usage(there).free / 1e6:.1f} MB are free there"
        raise UserError(
            f"{what} could not be written to {path}: {error.strerror} ({takes}{free}); make room and "
            f"{remedy or 'run again'}"
        ) from error


@contextlib.contextmanager
def _folder_of_ours(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _mark_as_ours(handle, fcntl.LOCK_SH)  # a shared lock: NFS gives no other for what is open for reading
        yield
    finally:
        os.close(handle)


def _mark_as_ours(handle: int, kind: int) -> None:
    """Hold a lock for as long as `handle` is open, so that `is_abandoned` can tell who was killed from who is slow."""
    with contextlib.suppress(OSError):  # a disk without locks: then nobody can tell, and nothing is called abandoned
        fcntl.flock(handle, kind | fcntl.LOCK_NB)


def is_aside(path: Path) -> bool:
    """Whether a name is one that `replacing` and `replacing_folder` give to what is not yet, or no more, in place."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.(tmp|old)", path.name) is not None


def is_abandoned(aside: Path) -> bool:
    """Whether the process that wrote there has ended without tidying up. False where that cannot be known."""
    try:
        if time.time() - aside.stat().st_ctime < SECONDS_TO_MARK:
            return False
        handle = os.open(aside, os.O_RDONLY if aside.is_dir() else os.O_RDWR)
    except OSError:  # gone meanwhile, or not ours to touch
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with replacing(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """JSON with two spaces of indent and a final newline. NaN is refused: it is a failure, never a number."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


def read_json(path: Path) -> Any:
    """Raises UserError when the file is missing, is not JSON, or is larger than any that we write."""
    try:
        return json.loads(_text(path, LARGEST_JSON))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; has the step that makes it been run? (`genforge run`, or `dvc repro`)"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, a number of 5,000 digits
        raise UserError(f"{path} is not valid JSON: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises UserError with line and column when the file cannot be read as one."""
    try:
        loader = _YAML(_text(path, LARGEST_YAML))
        node = loader.get_single_node()
        nodes = _expanded(node, {}, set())
        if nodes > MOST_NODES:
            raise UserError(
                f"{path} becomes {nodes} values when its aliases (*name) are followed, and {MOST_NODES} is the most"
            )
        _check_keys(node, set())
        value = None if node is None else loader.construct_document(node)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{path} should hold keys and values, but holds a {type(value).__name__}")
    return dict(value)


def _text(path: Path, most: int) -> str:
    """The file as text. Raises ValueError when it is not UTF-8, UserError when it is larger than `most` bytes."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path} is larger than {most} bytes, which is more than such a file ever needs")
    return data.decode()


def _expanded(node: yaml.Node | None, known: dict[int, int], above: set[int]) -> int:
    """How many values a YAML node becomes when every alias is followed, without following any twice."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise ValueError("an alias (*name) inside of what it stands for")
    if id(node) not in known:
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_expanded(part, known, above | {id(node)}) for part in parts)
    return known[id(node)]


def _check_keys(node: yaml.Node | None, known: set[int]) -> None:
    """Raises ValueError when a mapping names a key twice: YAML keeps the last one, and what the first said is lost."""
    if node is None or isinstance(node, yaml.ScalarNode) or id(node) in known:
        return
    known.add(id(node))
    lines: dict[str, int] = {}  # where each key stands
    for part in node.value:
        key, *rest = part if isinstance(part, tuple) else (part,)
        if rest and isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(f"key {key.value!r} stands twice, in lines {lines[key.value]} and {line}; keep one")
            lines[key.value] = line
        for below in (key, *rest):
            _check_keys(below, known)


def read_array(path: Path, memory_map: bool = False) -> np.ndarray:
    """A NumPy array; pickled content is refused, and so is an array that declares more than the file holds."""
    try:
        _check_declared_size(path)
        found = np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, EOFError, OverflowError, MemoryError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a plain NumPy array: {error}") from None
    if not isinstance(found, np.ndarray):  # an archive of arrays, whatever its name
        found.close()
        raise UserError(f"{path} is an archive of several arrays; save one alone, with `numpy.save`")
    return found


def _check_declared_size(path: Path) -> None:
    """Raises ValueError when the header of a `.npy` file declares more than follows it: NumPy would make room first."""
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            return  # an archive, or nothing of NumPy's: `numpy.load` tells
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
        declared, held = math.prod(shape) * kind.itemsize, path.stat().st_size - file.tell()
    if declared > held and not kind.hasobject:
        raise ValueError(f"its header declares {declared} bytes, {held} follow it")


def digest_bytes(*parts: bytes | memoryview) -> str:
    """Hex BLAKE2b digest of 128 bits."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def digest_file(path: Path) -> str:
    """Hex BLAKE2b digest of 128 bits of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest_json(value: Any) -> str:
    """Digest of a JSON value, independent of the order of keys."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def digest_array(array: np.ndarray) -> str:
    """Digest of an array's type, shape and contents."""
    array = np.ascontiguousarray(array)
    return digest_bytes(f"{array.dtype.str}{array.shape}".encode(), array.reshape(-1).view(np.uint8).data)
