"""The processes of a campaign: known by a mark in their environment, told apart by their command lines.

Only what carries the mark is ever signalled.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import PurePath

import psutil

MARK = "GENFORGE_CHAOS"  # environment: the campaign's name
LAUNCH = "GENFORGE_CHAOS_LAUNCH"  # environment: which launch of a command a process belongs to
MODULES = {
    "genforge.search.fork_server": "worker",
    "genforge.tracking.uploader": "uploader",
    "pipelines.retrain": "flow",
    "prefect": "prefect",
    "dvc": "dvc",
    "mlflow": "mlflow",
}
OWNERSHIP = "genforge.ownership"  # runs another module in a process that watches its owners


def kind_of(words: list[str]) -> str | None:
    """The kind of process of a command line; None for what is none of the pipeline's programs (a shell, git)."""
    if not words or not PurePath(words[0]).name.startswith("python"):
        return None
    for before, word in pairwise(words[1:]):
        if before in ("-m", OWNERSHIP) and word in MODULES:
            return MODULES[word]
    for place, word in enumerate(words[1:3], 1):
        match PurePath(word).name, words[place + 1 :]:
            case "dvc", ["repro", *_]:
                return "dvc"
            case "genforge", ["run", *_]:
                return "flow"
            case "genforge", ["doctor", *_]:
                return "doctor"
            case "genforge", ["step", step, *_]:
                return step if step in ("train", "search", "evaluate") else "step"
    return None


def marked(mark: str, launch: str | None = None) -> Iterator[psutil.Process]:
    """Living processes of the campaign, or of one launch of it."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if environment.get(MARK) != mark or (launch is not None and environment.get(LAUNCH) != launch):
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def by_kind(processes: Iterator[psutil.Process]) -> dict[str, list[psutil.Process]]:
    """The pipeline's programs among them, oldest first."""
    found: dict[str, list[psutil.Process]] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            kind = kind_of(process.cmdline())
            if kind is not None:
                found.setdefault(kind, []).append(process)
    for same in found.values():
        same.sort(key=lambda process: process.pid)
    return found


def left_after(seconds: float, find: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """What `find` still finds when it has had so many seconds to find nothing."""
    deadline = time.monotonic() + seconds
    while left := find():
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []


def described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        words = [PurePath(word).name if "/" in word else word for word in process.cmdline()]
        return f"{process.pid} {' '.join(words)[:120]}"
    return str(process.pid)
