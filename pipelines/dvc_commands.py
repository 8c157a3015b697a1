"""DVC's own commands, run as a person would, each in a process group that ends with its owner; and whether what was
pushed is really there.

DVC takes a remote's word from an index that it keeps itself, and never looks at an object that is there under the right
name: a copy that broke off stays broken. So the remote is asked here, object by object.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genforge import ownership
from genforge.progress import Bar
from genforge.settings import UserError
from pipelines.stages import BUSY, Processes, StageFailed

# What a network says that may be well again in a moment.
PASSING = (*BUSY, "timed out", "Timeout", "Connection", "Temporary failure", "SlowDown", "503", "unreachable")
AT_ONCE = 16  # objects that are asked for together
SHOWN = 3  # objects that a message names


def dvc(folder: Path, environment: Mapping[str, str], processes: Processes, *words: str) -> None:
    """One dvc command in the project `folder`.

    Raises:
        StageFailed: it ended with an error, with the end of what it said.
    """
    command = [sys.executable, "-m", "genforge.ownership", "dvc", *words]
    surroundings = {**os.environ, **environment, **ownership.environment()}
    with processes.started(command, cwd=folder, env=surroundings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT) as process:  # fmt: skip
        said = process.communicate()[0].decode(errors="replace")
    if process.returncode != 0:
        tail = "\n".join(said.strip().splitlines()[-8:])
        passing = any(word in said for word in PASSING)
        raise StageFailed(f"dvc {words[0]}", tail or f"exit status {process.returncode}", passing=passing,
                          mistake=False)  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What the remote holds of a project: objects, and their bytes as far as this machine knows them."""

    remote: str
    objects: int
    size: int

    def __str__(self) -> str:
        return f"{self.objects} objects, {self.size / 1e6:.1f} MB, in the remote {self.remote}"


def verify_remote(folder: Path) -> Kept:
    """Ask the default remote of the project `folder` for every object that dvc.lock and the .dvc files name: it has to
    be there, with as many bytes as here; listings of folders are read back and have to have their digest.

    Raises:
        UserError: something is missing or broken there; says what.
        StageFailed: the remote does not answer.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(folder)) as repo:
            there = repo.cloud.get_remote_odb()
            here = repo.cache.local
            name = str(repo.config["core"]["remote"])
            wanted = dict(_named(repo, there))
            with ThreadPoolExecutor(AT_ONCE) as pool, Bar("asking the remote", len(wanted), "objects") as bar:

                def look(item: tuple[str, str]) -> tuple[int, str]:
                    answer = _look(there, here, *item)
                    bar.advance()
                    return answer

                answers = list(pool.map(look, wanted.items()))
    except DvcException as error:
        raise StageFailed("verify", str(error), passing=any(word in str(error) for word in PASSING),
                          mistake=False) from error  # fmt: skip
    wrong = [problem for _, problem in answers if problem]
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"the remote {name} does not hold what was pushed to it: {'; '.join(wrong[:SHOWN])}{more}. Remove what is "
            f"broken there (dvc never writes over what is there by name), and run again"
        )
    return Kept(name, len(answers), sum(size for size, _ in answers))


def _named(repo: Any, there: Any) -> Iterator[tuple[str, str]]:
    """Every object that the project's outputs consist of, with the path of what it is part of."""
    for out in repo.index.outs:
        if not out.use_cache or not out.hash_info:
            continue
        oid = str(out.hash_info.value)
        yield oid, str(out)
        if out.hash_info.isdir:
            for entry in _listing(there, oid):
                yield str(entry["md5"]), f"{out}/{entry['relpath']}"


def _listing(there: Any, oid: str) -> list[dict[str, Any]]:
    """What a folder holds, as the remote tells it; nothing where it cannot: `_look` finds that out as well."""
    content = _read(there, oid)
    return list(json.loads(content)) if content is not None and _digest(content) == oid else []


def _look(there: Any, here: Any, oid: str, path: str) -> tuple[int, str]:
    """Bytes of an object, and what is wrong with it there."""
    place = there.oid_to_path(oid)
    try:
        size = int(there.fs.info(place)["size"])
    except FileNotFoundError:
        return 0, f"{path} is missing ({place})"
    if oid.endswith(".dir") and ((content := _read(there, oid)) is None or _digest(content) != oid):
        return size, f"{path} is broken ({place} has another digest than its name)"
    own = Path(here.oid_to_path(oid))
    if own.is_file() and own.stat().st_size != size:
        return size, f"{path} is broken ({place} has {size} bytes instead of {own.stat().st_size})"
    return size, ""


def _read(there: Any, oid: str) -> bytes | None:
    try:
        with there.fs.open(there.oid_to_path(oid), "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
