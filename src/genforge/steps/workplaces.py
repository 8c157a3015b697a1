"""Where scheduled runs work: clones of the project beside each other, and what those that were killed have left there.

`pipelines/workplace.py` makes them and works in them. A clone that no run holds is looked at as a project is: the rooms
find what their dead have left there. While it is mended its lock is held, so that no run begins there meanwhile; and
one that a run holds is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from genforge.files import is_abandoned, is_aside
from genforge.leftovers import Leftover
from genforge.locks import Lock
from genforge.settings import UserError
from genforge.tracking import mlflow_store

HOME = "GENFORGE_WORKPLACES"  # environment: the folder of workplaces
STORE = "MLFLOW_TRACKING_URI"

Finder = Callable[[Path], Iterator[Leftover]]


def home_of(repository: Path) -> Path:
    """The folder of workplaces of a repository on this machine."""
    return Path(os.environ.get(HOME) or repository.resolve() / ".genforge" / "workplaces").resolve()


def lock_of(folder: Path) -> Lock:
    """Who holds it works in this workplace."""
    return Lock(folder.with_name(f"{folder.name}.lock"))


def find(root: Path, rooms: Mapping[str, Finder]) -> Iterator[Leftover]:
    """What is left in the workplaces of the project in `root`, as these rooms find it there. Changes nothing."""
    home = home_of(root)
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        if path.is_dir() and is_aside(path):
            if is_abandoned(path):
                what = "a clone whose making or removing was killed"
                yield Leftover("temporary folder", str(path), what, "delete it", functools.partial(_delete, path))
        elif path.name.isdecimal() and path.is_dir() and not lock_of(path).is_held():
            yield from _left_in(path, root, rooms)


def _left_in(folder: Path, root: Path, rooms: Mapping[str, Finder]) -> Iterator[Leftover]:
    if _git_lock(folder).exists():
        what = "git's lock of a run that was killed"
        mend = functools.partial(_git_lock(folder).unlink, missing_ok=True)
        yield _told(Leftover("lock", str(_git_lock(folder)), what, "delete it", mend), folder, root)
    if not (folder / "params.yaml").is_file():
        return  # a clone that has nothing checked out yet: the next run goes on from there
    for look in rooms.values():
        with _store_of(root):
            found = list(look(folder))
        for leftover in found:
            yield _told(leftover, folder, root)


def _told(leftover: Leftover, folder: Path, root: Path) -> Leftover:
    """The same, mended only while nobody works in the folder, and not to be taken for one of the project's own."""
    place = leftover.place if leftover.place.startswith("/") else f"workplace {folder.name}: {leftover.place}"
    return replace(leftover, place=place, mend=functools.partial(_mend, leftover, folder, root))


def _mend(leftover: Leftover, folder: Path, root: Path) -> None:
    lock = lock_of(folder)
    if not lock.acquire():
        raise UserError(f"a run has begun in {folder}; ask again when it has ended")
    try:
        with _store_of(root):
            leftover.mend()
    finally:
        lock.release()


def _git_lock(folder: Path) -> Path:
    return folder / ".git" / "index.lock"


def _delete(path: Path) -> None:
    if path.is_dir() and is_abandoned(path):
        shutil.rmtree(path)


@contextlib.contextmanager
def _store_of(root: Path) -> Iterator[None]:
    """Runs in a clone are logged to the project's own tracking store, see `pipelines/workplace.py`."""
    before = os.environ.get(STORE)
    os.environ[STORE] = mlflow_store.store_uri(root)
    try:
        yield
    finally:
        os.environ.pop(STORE) if before is None else os.environ.update({STORE: before})
