"""A run's own log on disk: what is true about a run, whoever reads it later and wherever it is sent.

    .genforge/runs/<run id>/
        events.jsonl    one JSON object a line, only ever appended to
        images/         the PNG files that events name
        artifacts/      copies of the files that events name

The first line is the start (written before the folder gets its name, so that a run has one or does not exist), the last
one the end. A line counts when its newline is there: what a kill tore off was never said. Numbers that are not finite
are written as the words `nan`, `inf` and `-inf`: a log must be able to tell how a run went wrong.

Appending costs one write to the system's cache, some tens of microseconds: it outlives the process, and only a power
cut can lose the last seconds.

A disk that is full stops nobody. What it does not take is kept in memory, told again with the next event, and a warning
says so once. Only when the run ends, or when too much is kept, and the disk is still full, is that an error.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from genforge.files import replacing, replacing_folder
from genforge.processes import Identity
from genforge.progress import say
from genforge.settings import UserError

Status = Literal["FINISHED", "FAILED", "KILLED"]
PIPELINE = "pipeline"  # the kind of a run that is the parent of its stages' runs
MAX_REASON = 2000  # characters: why a run failed, in its end
MAX_UNSAID = 64 * 2**20  # bytes kept in memory while the disk is full
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the largest file allowed
ID_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_ILLEGAL = re.compile(r"[^A-Za-z0-9_\-. :/]")  # MLflow's rule for names of metrics, parameters and tags
_ILLEGAL_IN_KEYS = re.compile(r"[^A-Za-z0-9_\-./ ]")  # and for keys of images


@dataclass(frozen=True)
class Event:
    """One line of a log. `end` is the place in the file, in bytes, behind it."""

    kind: str
    time: int  # milliseconds since 1970; no two events of one writer share it
    values: dict[str, Any]
    end: int


class RunLog:
    """The log in one folder, to append to and to read from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last_time = 0
        self._is_whole = False  # whether the file is known to end with a newline
        self._unsaid: deque[tuple[Path, bytes]] = deque()  # lines, and pictures, that a full disk has not taken yet
        self._has_warned = False
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def _events(self) -> Path:
        return self.folder / "events.jsonl"

    @classmethod
    def create(cls, runs: Path, identity: str, start: Mapping[str, Any]) -> RunLog:
        """A new run `identity` under the folder `runs`, or the one that somebody else made meanwhile.

        Args:
            start: kind, name, experiment, parameters, tags, parent (a run id or None), dataset, and `process`: whose
                end is the run's end.

        Raises:
            UserError: the id could not be a folder's name, or the disk is full.
        """
        if not ID_RULE.fullmatch(identity):
            raise UserError(f"run id {identity!r}: should be letters, digits, `_`, `.` and `-`, at most 128")
        folder = runs / identity
        aside = runs / f".{identity}.{uuid.uuid4().hex[:8]}.tmp"
        aside.mkdir(parents=True)
        log = cls(aside)
        log.append("start", start)
        if log._unsaid:
            shutil.rmtree(aside)
            raise log._disk_is_full()
        try:
            aside.rename(folder)
        except OSError:  # a folder that is not empty is never replaced: the other one was first
            shutil.rmtree(aside)
            if not folder.is_dir():
                raise
        log.folder = folder
        return log

    def append(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add one event. Whole or not at all, also with several processes writing at once.

        Raises:
            UserError: the disk has been full for so long that no more can be kept in memory.
        """
        with self._lock:
            self._add(kind, values)
            self._say_all()

    def _add(self, kind: str, values: Mapping[str, Any]) -> None:
        text = json.dumps({"event": kind, "time": self._now(), **values}, allow_nan=False, separators=(",", ":"))
        self._unsaid.append((self._events, text.encode() + b"\n"))

    def _say_all(self) -> None:
        """Write what is waiting, in order, as far as the disk takes it."""
        try:
            while self._unsaid:
                path, data = self._unsaid[0]
                if path == self._events:
                    self._write_line(data)
                else:
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(data)
                self._unsaid.popleft()
            self._has_warned = False
        except OSError as error:
            if error.errno not in _FULL:
                raise
            kept = sum(len(data) for _, data in self._unsaid)
            if kept > MAX_UNSAID:
                raise self._disk_is_full() from error
            if not self._has_warned:
                self._has_warned = True
                with contextlib.suppress(OSError):  # the words may go to a file on the same disk
                    say(f"warning: {self._events}: {error.strerror}; the run goes on, its log waits in memory for room")

    def _write_line(self, line: bytes) -> None:
        line = b"\n" * self._is_torn() + line
        handle = os.open(self._events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._is_whole = False
            self._is_whole = os.write(handle, line) == len(line)
        finally:
            os.close(handle)
        if not self._is_whole:  # the disk took a part; the next try starts a line of its own
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._events))

    def _disk_is_full(self) -> UserError:
        return UserError(
            f"{self._events}: the disk is full, and {len(self._unsaid)} events of the run could not be written; "
            f"free some space and run this again: it goes on from what is saved"
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.append("metrics", {"step": int(step), "values": {legal(k): _plain(float(v)) for k, v in values.items()}})

    def tags(self, values: Mapping[str, Any]) -> None:
        self.append("tags", {"values": {legal(key): str(value) for key, value in values.items()}})

    def image(self, key: str, step: int, png: bytes) -> None:
        """A picture of one step, as the bytes of a PNG file."""
        key = _ILLEGAL_IN_KEYS.sub("_", key)
        name = f"{key.replace('/', '~')}-{int(step):08d}-{secrets.token_hex(2)}.png"
        with self._lock:
            self._unsaid.append((self.folder / "images" / name, png))
            self._add("image", {"key": key, "step": int(step), "file": name})
            self._say_all()

    def artifact(self, path: Path, folder: str = "") -> None:
        """A copy of a file or of a folder, kept under `folder` among the run's artifacts."""
        inside = PurePosixPath(folder)
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"artifact folder {folder!r}: should be a path inside the run, without `..`")
        target = self.folder / "artifacts" / inside / path.name
        if path.is_dir():
            with replacing_folder(target) as aside:
                for file in (file for file in sorted(path.rglob("*")) if file.is_file()):
                    copy_of = aside / file.relative_to(path)
                    copy_of.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, copy_of)  # `copytree` would hide which error it was
        else:
            with path.open("rb") as source, replacing(target) as copy:
                shutil.copyfileobj(source, copy)
        self.append("artifact", {"file": str(inside / path.name), "folder": "" if folder in ("", ".") else str(inside)})

    def end(self, status: Status, reason: str = "") -> None:
        """Raises UserError when the disk is full and has not taken all that was told."""
        self.append("end", {"status": status, "reason": reason[-MAX_REASON:]})
        if self._unsaid:
            raise self._disk_is_full()

    def size(self) -> int:
        """Bytes of complete lines, give or take the one that is being written."""
        return self._events.stat().st_size

    def read(self, start: int = 0) -> Iterator[Event]:
        """Events from the place `start` (the `end` of an event, or 0). Torn lines are passed over."""
        with self._events.open("rb") as file:
            file.seek(start)
            place = start
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written, or torn by a kill
                place += len(line)
                value = _parse(line)
                if value is not None:
                    yield Event(value.pop("event"), int(value.pop("time")), value, place)

    def start(self) -> Event:
        """Raises UserError when the log has no start: no run of ours."""
        first = next(self.read(), None)
        if first is None or first.kind != "start":
            raise UserError(f"{self._events} does not begin with a start; it is no run's log")
        return first

    def status(self) -> Status | None:
        """How the run ended, or None while it has not: the end is the last line."""
        try:
            with self._events.open("rb") as file:
                file.seek(max(0, self.size() - 16 * MAX_REASON))  # a character takes up to 12 bytes in JSON
                *_, last, torn = [b"", *file.read().split(b"\n")]
        except FileNotFoundError:
            return None
        value = _parse(last) if not torn else None
        return value["status"] if value is not None and value["event"] == "end" else None

    def is_readable(self) -> bool:
        """False for a log whose start a power cut, or somebody's hand, has taken."""
        try:
            self.process()
        except (UserError, OSError, KeyError, TypeError, ValueError):
            return False
        return True

    def process(self) -> Identity:
        """The process whose end is the run's end."""
        return Identity.from_json(self.start().values["process"])

    def _now(self) -> int:
        self._last_time = max(int(time.time() * 1000), self._last_time + 1)
        return self._last_time

    def _is_torn(self) -> bool:
        """True when the last line has no newline: a writer was killed inside it. Looked at once by each writer."""
        if self._is_whole or not self._events.exists():
            return False
        with self._events.open("rb") as file:
            file.seek(max(0, self.size() - 1))
            return file.read(1) not in (b"", b"\n")


def runs_folder(root: Path) -> Path:
    """Where the runs of the project in `root` have their logs."""
    return root / ".genforge" / "runs"


def all_runs(root: Path) -> list[RunLog]:
    """Every run of the project in `root` whose log can be read, sorted by id."""
    return [log for log in run_folders(root) if log.is_readable()]


def run_folders(root: Path) -> list[RunLog]:
    """Every run of the project in `root`, also those whose log can not be read, sorted by id."""
    runs = runs_folder(root)
    if not runs.is_dir():
        return []
    return [RunLog(path) for path in sorted(runs.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def reap(root: Path, among: Iterable[RunLog] | None = None) -> list[str]:
    """End every run whose process has ended without a word, as KILLED, and return their ids.

    A pipeline run that `dvc` began ends with `dvc`, which cannot tell us how: FINISHED when all its stages are.

    Args:
        among: the runs to look at; None: all of the project.
    """
    logs = [log for log in (run_folders(root) if among is None else among) if log.status() is None]
    # The last look is at the end: a process may say how its run ended after the first look, and be gone by the second.
    orphans = [log for log in logs if log.is_readable() and log.process().is_gone() and log.status() is None]
    for log in sorted(orphans, key=lambda log: log.start().values["kind"] == PIPELINE):  # stages before their parents
        start = log.start().values
        if start["kind"] == PIPELINE and start["name"] == "dvc":
            stages = [stage for stage in all_runs(root) if stage.start().values["parent"] == log.id]
            log.end("FINISHED" if all(stage.status() == "FINISHED" for stage in stages) else "FAILED")
        else:
            log.end("KILLED", f"process {log.process().pid} ended without a word")
    return [log.id for log in orphans]


def new_id(*words: str) -> str:
    """A run id that sorts by time and says what it is, such as `20261121T091500-train-gan-1f3c5a70`."""
    plain = (re.sub(r"[^A-Za-z0-9_.]+", "-", word).strip("-") for word in words)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return "-".join([stamp, *(word[:40] for word in plain if word), secrets.token_hex(4)])


def legal(name: str) -> str:
    """A name that MLflow takes, with `_` for every letter that it refuses, such as `@`."""
    name = _ILLEGAL.sub("_", str(name)).strip("/") or "_"
    return "/".join("_" if part in ("", ".", "..") else part for part in name.split("/"))[:250]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with text values: `{"a": {"b": 1}}` to `{"a.b": "1"}`."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[legal(f"{prefix}{key}")] = str(value)
    return result


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "event" in value and "time" in value else None
