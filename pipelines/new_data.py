"""The images of a scheduled run: as they are now, and versioned, so that a model can be traced back to them.

Where they come from hangs on how `data.folder` is kept:

- a folder of the user's that DVC tracks, or that git ignores: it is watched. What lies in it now is added to DVC in the
  workplace; the user's own `.dvc` file stays as it is.
- imported (`dvc import`, `dvc import-url`): the place that it was imported from is asked for a newer version. So a
  remote that others fill is watched.
- otherwise what git has: a new commit brings a new version.

A file that is still being written would make a broken image. So a folder is taken as it is only when nothing in it has
changed for some seconds; until then there is nothing new.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genforge.files import digest_json, read_json, read_yaml, write_json, write_text
from genforge.progress import say
from genforge.settings import UserError
from pipelines.dvc_commands import dvc
from pipelines.stages import Processes
from pipelines.workplace import Workplace

EMBEDDED = ("digits", "tins")  # sources that read no folder
SECONDS_OF_PATIENCE = 300.0
SEEN = "watched.json"  # in a workplace's state: the folder as it was when it was added last


@dataclass(frozen=True)
class Brought:
    """Where the images come from, in words, and the files that have to be committed with them."""

    words: str
    files: tuple[str, ...] = ()


def bring(place: Workplace, processes: Processes) -> Brought:
    """Bring `data.folder` of a workplace to what it is now.

    Raises:
        UserError: the images are not versioned, and cannot be; or something goes on writing them.
        StageFailed: DVC fails, for example because a remote is away.
    """
    data = place.project.config.data
    folder = Path(data.folder)
    if data.source in EMBEDDED:
        return Brought(f"{data.source}, which the package brings")
    if folder.is_absolute():
        return Brought(f"{folder}, which is no part of the project")
    tracked = Path(f"{folder}.dvc")
    stage = read_yaml(place.folder / tracked) if (place.folder / tracked).is_file() else {}
    if stage.get("deps"):
        dvc(place.folder, place.environment, processes, "update", "--quiet", str(tracked))
        return Brought(f"{folder}, imported from {_origin(stage)}", (str(tracked),))
    watched = place.origin / folder if place.is_local else None
    if watched is None or not watched.exists():
        return Brought(f"{folder}, as {place.branch} has it")
    if place.git("ls-files", "--", str(folder)):
        if data.source == "image_folder":
            raise UserError(
                f"data.folder: git itself tracks files in {folder}, so DVC cannot version what else lies there, and no "
                f"model could be traced back to its images; put them into a folder of their own, such as my-images, "
                f"and set data.folder to that"
            )
        return Brought(f"{folder}, as {place.branch} has it")
    _add(place, watched, folder, processes)
    return Brought(f"{watched}, as it is now", (str(tracked), str(folder.parent / ".gitignore")))


def _add(place: Workplace, watched: Path, folder: Path, processes: Processes) -> None:
    """Give the workplace what the watched folder holds, by way of DVC's cache; at once where it is known already."""
    seen = place.project.state / SEEN
    found = at_rest(watched, place.project.config.schedule.at_rest)
    tracked, ignoring = place.folder / f"{folder}.dvc", place.folder / folder.parent / ".gitignore"
    known = read_json(seen) if seen.is_file() else {}
    if known.get("listing") == found and known.get("folder") == str(folder):
        write_text(tracked, known["tracked"])
        write_text(ignoring, known["ignoring"])
        return
    own = place.folder / folder
    shutil.rmtree(own) if own.is_dir() else own.unlink(missing_ok=True)
    own.parent.mkdir(parents=True, exist_ok=True)
    dvc(place.folder, place.environment, processes, "add", "--quiet", "--force", str(watched), "--out", str(folder))
    if listing(watched) != found:
        raise UserError(f"{watched} was changed while it was read; the next run takes it")
    write_json(seen, {"listing": found, "folder": str(folder), "tracked": tracked.read_text("utf-8"),
                      "ignoring": ignoring.read_text("utf-8") if ignoring.is_file() else ""})  # fmt: skip


def at_rest(watched: Path, seconds: float, patience: float = SECONDS_OF_PATIENCE) -> str:
    """The folder's listing once nothing in it is younger than `seconds`.

    Raises:
        UserError: it does not come to rest within `patience` seconds.
    """
    began, told = time.monotonic(), False
    while (age := time.time() - _newest(watched)) < seconds:
        if time.monotonic() - began > patience:
            raise UserError(f"{watched} has been changing for {patience:.0f} s; the next run takes it")
        if not told:
            say(f"{watched} is being written; waiting until nothing has changed for {seconds:.0f} s")
            told = True
        time.sleep(min(1.0, max(0.05, seconds - age)))
    return listing(watched)


def listing(watched: Path) -> str:
    """Digest of the names, sizes and times of the files in a folder: it changes when one of them does."""
    return digest_json(sorted([str(path.relative_to(watched)), state.st_size, state.st_mtime_ns]
                              for path, state in _files(watched)))  # fmt: skip


def _newest(watched: Path) -> float:
    """When something in it changed last, in seconds since 1970. A time in the future is a broken clock, and no news."""
    now = time.time()
    times = [state.st_ctime for _, state in _files(watched)]
    return max((moment for moment in times if moment <= now), default=0.0)


def _files(watched: Path) -> list[tuple[Path, Any]]:
    if watched.is_file():  # an archive
        return [(watched, watched.stat())]
    found = []
    for parent, _, names in os.walk(watched):
        for name in names:
            path = Path(parent, name)
            try:
                found.append((path, path.stat()))
            except FileNotFoundError:  # gone meanwhile, or a link to nothing: DVC tells of that
                continue
    return found


def _origin(stage: dict[str, Any]) -> str:
    dependency = stage["deps"][0]
    return str(dependency.get("repo", {}).get("url") or dependency.get("path"))
