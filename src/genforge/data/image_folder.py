"""A folder of image files as a listing: which files there are, and what their labels are. Nothing is opened here.

Flat (all files beside each other: no labels) or one folder a class (every file below the folder `cat`, however deep,
has the label `cat`). Files and folders whose names begin with a dot are not looked at, nor is a README.md at the top.
Everything else is listed, images or not: `prepare` tells which is what, and says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from genforge.settings import UserError

SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}


def list_folder(folder: Path, name: str = "") -> pl.DataFrame:
    """Columns `path` (relative to `folder`, `/` between parts) and `label` (null where there are none), sorted by path.

    Args:
        name: what an error calls the folder; empty: by its path.

    Raises:
        UserError: the folder is missing or empty, holds images both beside and inside folders, or holds folders that
            look like splits instead of classes.
    """
    called = name or str(folder)
    if not folder.is_dir():
        raise UserError(
            f"data.folder: {called!r} is not a folder; put images there, or set data.folder to where they are, a "
            f"folder or an archive"
        )
    paths = sorted(files_below(folder))
    if not paths:
        raise UserError(f"data.folder: {called!r} holds no files; put images there, flat or one folder a class")
    loose = [path for path in paths if "/" not in path]
    classes = sorted({path.partition("/")[0] for path in paths if "/" in path})
    if loose and classes:
        raise UserError(
            f"data.folder: {called!r} mixes images without a label ({len(loose)}, such as {loose[0]!r}) with "
            f"folders of a class each ({', '.join(map(repr, classes[:3]))}); move all into folders, or none"
        )
    if classes and SPLIT_NAMES.issuperset(name.lower() for name in classes):
        raise UserError(
            f"data.folder: {called!r} holds {', '.join(map(repr, classes))}, which look like splits and not like "
            f"classes; set data.folder to one of them: the splits are made here"
        )
    labels = [path.partition("/")[0] if classes else None for path in paths]
    return pl.DataFrame({"path": paths, "label": labels}, schema={"path": pl.String, "label": pl.String})


def files_below(folder: Path) -> Iterator[str]:
    """Relative paths of all that is not a folder. Links to folders are followed, but not in a circle.

    Raises:
        UserError: a folder cannot be looked into.
    """
    waiting: list[tuple[str, frozenset[str]]] = [("", frozenset({os.path.realpath(folder)}))]
    while waiting:
        inside, above = waiting.pop()
        try:
            entries = list(os.scandir(folder / inside))
        except OSError as error:
            raise UserError(
                f"{str(folder / inside)!r} cannot be looked into ({error.strerror}); let it be read, or move it away"
            ) from None
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith(".") or path == "README.md":
                continue
            if not entry.is_dir():
                # A name that is not UTF-8 cannot stand in a table; spelt out, it is not found, and quarantined.
                yield os.fsencode(path).decode("utf-8", "backslashreplace")
            elif entry.is_symlink():
                if (real := os.path.realpath(entry.path)) not in above:
                    waiting.append((path, above | {real}))
            else:
                waiting.append((path, above))
