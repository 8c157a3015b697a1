"""The stages of dvc.yaml as DVC itself sees them, and the running of one.

DVC's graph is the only one: nothing here says which step follows which. DVC's internal API is used for reading alone;
a stage is run by the command line, as a person would.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genforge import config, ownership
from genforge.cli import FAILURE
from genforge.files import read_yaml
from genforge.processes import Identity, command_line, describe, words_of
from genforge.progress import CHANNEL, say
from genforge.settings import Settings, UserError
from genforge.steps.leftovers import locks_of_dvc, mend_cut_off_table

# What DVC says when another of its processes holds a lock for a moment: a try later can pass.
BUSY = ("Unable to acquire lock", "is busy, it is being blocked by", "database is locked")
SECONDS_TO_STOP = 4.0


@dataclass(frozen=True)
class Graph:
    """Stages in an order in which they can run, what each needs, and which of them are out of date."""

    order: tuple[str, ...]
    needs: Mapping[str, frozenset[str]]
    commands: Mapping[str, str]
    stale: frozenset[str]

    @classmethod
    def read(cls, root: Path) -> Graph:
        """Raises UserError when dvc.yaml cannot be read, params.yaml lacks a key that DVC watches, or another DVC
        process is at work here."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        check_watched_keys(root)
        mend_cut_off_table(root)  # a kill of DVC can leave it so, and then no dvc command works
        try:
            with Repo(str(root)) as repo:
                graph = repo.index.graph
                # DVC addresses stages from where it is called; here they are named from the project's folder.
                names = {stage.addressing: _name(stage, root) for stage in graph}
                needs = {
                    names[stage.addressing]: frozenset(names[need.addressing] for need in graph.successors(stage))
                    for stage in graph
                }
                commands = {names[stage.addressing]: str(stage.cmd) for stage in graph if stage.cmd}
                changed = {names[address] for address in repo.status()}
        except DvcException as error:
            if any(phrase in str(error) for phrase in BUSY):
                raise UserError(who_is_busy(str(error), root)) from error
            raise _unreadable(error) from error
        except (OSError, UnicodeError) as error:  # a link to nothing among the user's images, or a name like b"\xff"
            raise UserError(
                f"DVC cannot read what a stage depends on: {error}; mend, rename or remove that file"
            ) from error
        order = tuple(_sorted(needs))
        stale: set[str] = set()
        for name in order:  # what follows a stale stage may be stale: DVC decides when its turn comes
            if name in changed or needs[name] & stale:
                stale.add(name)
        return cls(order, needs, commands, frozenset(stale & set(commands)))

    def only(self, *stages: str) -> Graph:
        """The same with no other stages to run than these, and those of `foreach` entries by these names."""
        return replace(self, stale=frozenset(name for name in self.stale if name.partition("@")[0] in stages))

    def without(self, *stages: str) -> Graph:
        """The same without these stages among those to run."""
        return replace(self, stale=frozenset(name for name in self.stale if name.partition("@")[0] not in stages))


def out_of_date(root: Path) -> dict[str, str]:
    """Stages that DVC would run, by name, each with what has changed, in an order in which they can run.

    Only the lock, the code, the settings and the raw data have to be here: outputs that the lock knows may be missing.
    What follows a stage that is told may be out of date as well.

    Raises:
        UserError: dvc.yaml cannot be read, params.yaml lacks a key that DVC watches, or a file cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    check_watched_keys(root)
    mend_locks(root)
    found: dict[str, str] = {}
    try:
        with Repo(str(root)) as repo, repo.lock:
            graph = repo.index.graph
            stages = {_name(stage, root): stage for stage in graph}
            needs = {_name(stage, root): {_name(need, root) for need in graph.successors(stage)} for stage in graph}
            for name in _sorted({name: frozenset(found) for name, found in needs.items()}):
                stage = stages[name]
                upstream = [stages[need] for need in needs[name]]
                if stage.cmd and stage.changed(allow_missing=True, upstream=upstream):
                    found[name] = _what_changed(stage)
    except DvcException as error:
        raise _unreadable(error) from error
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"DVC cannot read what a stage depends on: {error}; mend, rename or remove that file"
        ) from error
    return found


def _unreadable(error: Exception) -> UserError:
    """What DVC has against the pipeline, with what to do about what a newcomer meets: a downloaded archive."""
    remedy = ""
    if "is not a git repository" in str(error):
        remedy = "; versions are kept with git: work in a clone, or say `git init`, `git add -A` and `git commit` here"
    return UserError(f"DVC cannot read the pipeline: {error}{remedy}")


def _what_changed(stage: Any) -> str:
    """Names of the dependencies that differ from what the lock says; empty where it says nothing."""
    if not any(dependency.hash_info for dependency in stage.deps):
        return "never run"
    changed = [str(dependency) for dependency in stage.deps
               if dependency.status() and "deleted" not in dependency.status().values()]  # fmt: skip
    return ", ".join(changed)


def mend_locks(root: Path) -> None:
    """A DVC that is killed while it writes its table of locks leaves one that no DVC can read any more."""
    for leftover in locks_of_dvc(root):
        with contextlib.suppress(UserError):  # a DVC is at work on it: then it is in use, and can be read
            leftover.mend()


def check_watched_keys(root: Path) -> None:
    """Every key of params.yaml that dvc.yaml watches has to be there: DVC knows no defaults.

    Raises:
        UserError: names the missing keys with their defaults.
    """
    stages = read_yaml(root / "dvc.yaml").get("stages") or {}
    values = read_yaml(root / "params.yaml")
    watched: dict[str, None] = {}  # a set that keeps the order
    for entry in stages.values():
        stage = entry.get("do", entry)
        watched |= dict.fromkeys(key for key in stage.get("params") or () if isinstance(key, str) and "$" not in key)
        watched |= dict.fromkeys(re.findall(r"\$\{([\w.]+)\}", " ".join(map(str, stage.get("deps") or ()))))
    watched = dict.fromkeys(key for key in watched if key.partition(".")[0] not in ("key", "item"))
    missing = [key for key in watched if not _holds(values, key)]
    if missing:
        settings = config.load(root / "params.yaml")
        lines = "\n".join(f"  {key}: {json.dumps(_value(settings, key))}" for key in missing)
        raise UserError(f"params.yaml lacks keys that DVC watches (dvc.yaml); add them. Their defaults:\n{lines}")


def _holds(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _value(settings: Settings, key: str) -> Any:
    """Where params.yaml does not have the key, its default, such as it is for these data."""
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part, None)
    return value.model_dump(mode="json") if isinstance(value, Settings) else value


class StageFailed(Exception):
    """A stage ended with an error. `passing`: another try may succeed; `mistake`: the user can mend it."""

    def __init__(self, stage: str, reason: str, *, passing: bool, mistake: bool) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason, self.passing, self.mistake = stage, reason, passing, mistake


class PipelineFailed(Exception):
    """Some stages failed; the others that did not need them have run."""

    def __init__(self, failures: list[StageFailed], skipped: list[str]) -> None:
        super().__init__("; ".join(str(failure) for failure in failures))
        self.failures, self.skipped = failures, skipped


class Processes:
    """The process groups that this process has started, so that none outlives it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    @contextlib.contextmanager
    def started(self, command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A process in a group of its own, which is ended with all its children when the block is left."""
        with self._lock:
            if self._closed:
                raise InterruptedError("the pipeline is stopping")
            process = subprocess.Popen(command, start_new_session=True, **options)
            self._running.add(process)
        try:
            yield process
        finally:
            end_group(process)
            with self._lock:
                self._running.discard(process)

    def end_all(self) -> None:
        """End every group at once, and start none any more."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _signal_group(process, signal.SIGTERM)
        for process in running:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, and SIGKILL after some seconds to what is left of it.

    DVC ends at once while its stage still writes a checkpoint: so it is the group that is waited for.
    """
    deadline = time.monotonic() + SECONDS_TO_STOP
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
    while ownership.members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def say_plainly(stage: str, message: dict[str, Any]) -> None:
    """What a step has to say, as a line with its name; how far it is, is not shown."""
    if message.get("text"):
        say(f"{stage}: {message['text'].removeprefix(f'{stage}: ')}")


def run_stage(
    stage: str,
    root: Path,
    environment: Mapping[str, str],
    processes: Processes,
    tell: Callable[[str, dict[str, Any]], None],
) -> None:
    """`dvc repro -s` of one stage; `tell(stage, message)` gets its progress meanwhile.

    Raises:
        StageFailed: with the step's own reason where it gave one, else the end of what it printed.
    """
    repro = [sys.executable, "-m", "genforge.ownership", "dvc", "repro", "--single-item", stage]
    run_program(stage, repro, root, environment, processes, tell)


def run_program(
    stage: str,
    command: list[str],
    root: Path,
    environment: Mapping[str, str],
    processes: Processes,
    tell: Callable[[str, dict[str, Any]], None] = say_plainly,
) -> None:
    """A command of ours in the name of a stage, in a process group of its own; the rest as in `run_stage`."""
    logs = root.resolve() / ".genforge" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    # Names that the next run of the stage takes again: a flow that is killed leaves nothing that would pile up.
    log, channel, failure = logs / f"{stage}.log", logs / f"{stage}.progress", logs / f"{stage}.failure.json"
    for path in (channel, failure):
        path.unlink(missing_ok=True)
    channel.touch()
    paths = {CHANNEL: str(channel), FAILURE: str(failure), **ownership.environment()}
    with log.open("wb") as output:
        options = {"cwd": root, "env": {**os.environ, **environment, **paths}, "stdin": subprocess.DEVNULL}
        with processes.started(command, stdout=output, stderr=subprocess.STDOUT, **options) as process:
            with channel.open() as messages:
                unfinished = ""
                while process.poll() is None:
                    unfinished = _forward(unfinished + messages.read(), stage, tell)
                    time.sleep(0.1)
                _forward(unfinished + messages.read(), stage, tell)
    channel.unlink(missing_ok=True)
    if process.returncode != 0:
        raise _failure(stage, process.returncode, failure, log)


def _forward(text: str, stage: str, tell: Callable[[str, dict[str, Any]], None]) -> str:
    """Tell the whole lines of `text`, and give back what has no end yet."""
    *lines, unfinished = text.split("\n")
    for line in lines:
        tell(stage, json.loads(line))
    return unfinished


def _failure(stage: str, status: int, failure: Path, log: Path) -> StageFailed:
    text = log.read_text(errors="replace")
    if failure.exists():
        told = json.loads(failure.read_text("utf-8"))
        return StageFailed(stage, told["text"], passing=told["kind"] == "passing", mistake=told["kind"] == "user")
    if any(phrase in text for phrase in BUSY):
        return StageFailed(stage, who_is_busy(text, log.parents[2]), passing=True, mistake=False)
    tail = "\n".join(text.strip().splitlines()[-15:])
    return StageFailed(stage, f"exit status {status}; the end of {log}:\n{tail}", passing=False, mistake=False)


def who_is_busy(text: str, root: Path) -> str:
    """What DVC's message about a lock means, with the processes that hold it: DVC names an id at best."""
    pids = re.findall(r"\(PID (\d+)\):", text)
    lock = root / ".dvc" / "tmp" / "lock"
    if not pids and lock.is_file():
        pids = re.findall(r"^\s*(\d+)", lock.read_text(errors="replace"))
    known = {pid: Identity.of(int(pid)) for pid in pids}
    names = [describe(found, command_line(words_of(found.pid))) for found in known.values() if found is not None]
    holders = ", ".join(names) or "another DVC process"
    return f"DVC can change this project in one process at a time, and {holders} is at it; wait for it, or end it"


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(process.pid, number)


def _name(stage: Any, root: Path) -> str:
    file = os.path.relpath(stage.path, root)
    name = getattr(stage, "name", None)
    if name is None:
        return file
    return str(name) if file == "dvc.yaml" else f"{file}:{name}"


def _sorted(needs: Mapping[str, frozenset[str]]) -> list[str]:
    from graphlib import TopologicalSorter

    return list(TopologicalSorter(needs).static_order())
