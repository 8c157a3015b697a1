"""What killed trainers and changes of mind leave under .genforge/checkpoints: half-written checkpoints, damaged ones,
and those of recipes that are no more.

A folder in which a living process trains is left alone, and so is one of another machine's process, of which nobody
here knows whether it lives.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from genforge.files import read_json, read_yaml
from genforge.leftovers import Leftover
from genforge.processes import Identity
from genforge.settings import UserError
from genforge.training.checkpoint import DAMAGED, WRITER, Damaged, checkpoints_folder, unfinished, unsealed, whole

OWN = "_"  # what names begin with that are the pipeline's own and no recipe's


def find(root: Path) -> Iterator[Leftover]:
    """Everything of this room that nobody will use. Reads every checkpoint once, to see whether it is whole.

    Raises:
        UserError: params.yaml is missing or no YAML, so that nobody can say which recipes there are; it comes last.
    """
    kept = checkpoints_folder(root)
    for run in sorted(path for path in kept.glob("*/*") if path.is_dir()):
        yield from of_run(run)
    for path in sorted(path for path in kept.glob("*") if path.is_dir()):
        if _is_orphan(root, path):
            what = f"checkpoints of the recipe `{path.name}`, which params.yaml does not name"
            yield _leftover("checkpoints", path, what, partial(_is_orphan, root))


def of_run(run: Path) -> Iterator[Leftover]:
    """What is left in one folder of checkpoints, wherever it lies (trials have theirs elsewhere). Of a run that goes on
    nothing is."""
    if not _is_idle(run):
        return
    for path in unfinished(run):
        what = "a checkpoint that a killed trainer was writing or removing"
        yield _leftover("temporary file", path, what, lambda path: _is_idle(run))
    for path in sorted(run.glob(f"{DAMAGED}*")):
        yield _leftover("checkpoint", path, "a damaged checkpoint that training has passed over", Path.is_dir)
    for path in whole(run):
        if damage := _damage(path):
            what = f"a damaged checkpoint: {damage}"
            yield _leftover("checkpoint", path, what, lambda path: _is_idle(run) and bool(_damage(path)))


def _leftover(kind: str, path: Path, what: str, still: Callable[[Path], bool]) -> Leftover:
    """A folder to delete, if it is there when that is done, and `still` what it was."""

    def delete() -> None:
        try:
            if path.is_dir() and still(path):
                shutil.rmtree(path)
        except FileNotFoundError:
            return  # another one is removing it
        except OSError as error:
            raise UserError(f"{path} could not be removed: {error.strerror or error}") from error

    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Leftover(kind, str(path), f"{what}; {size / 1e6:.1f} MB", "delete it", delete)


def _damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint; empty when nothing is, or nothing can be seen."""
    try:
        unsealed(checkpoint)
    except Damaged as damage:
        return str(damage)
    except UserError:
        return ""  # it may not be read, which says nothing of what is in it
    return ""


def _is_idle(run: Path) -> bool:
    """Whether the process that last trained into this folder has ended."""
    try:
        return Identity.from_json(read_json(run / WRITER)).is_gone()
    except (UserError, KeyError, TypeError, ValueError):
        return True  # nobody has signed, so that nobody trains here


def _is_orphan(root: Path, path: Path) -> bool:
    """Whether nobody trains into the folder of a name that is neither a recipe's nor the pipeline's own.

    Raises:
        UserError: params.yaml names no recipes (it was emptied, say), so that nobody can tell whose the folder is.
    """
    recipes = read_yaml(root / "params.yaml").get("recipes")
    if not isinstance(recipes, dict) or not recipes:
        raise UserError("params.yaml names no recipes, so that nobody can tell whose checkpoints are still wanted")
    known = path.name.startswith(OWN) or path.name in recipes
    return not known and all(_is_idle(run) for run in path.iterdir() if run.is_dir())
