"""What somebody who was killed has left in the registry: moves half done, versions half registered, packages.

There are no stale locks: the registry's is the kernel's, which frees it with its holder.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genforge.leftovers import Leftover
from genforge.processes import Identity
from genforge.registry.alias_history import RUN
from genforge.registry.registry import PACKAGES, PROCESS, Registry
from genforge.tracking import mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONG = 24 * 3600  # seconds: nobody uploads a model for so long, on a machine that cannot be asked


def find(root: Path) -> Iterator[Leftover]:
    """Everything of this kind that the project in `root` can see: its own machine's files, and its store's models.

    Raises:
        UserError: the store does not answer.
    """
    yield from _packages(root)
    if not mlflow_store.is_there(root):
        return
    client = mlflow_store.reach(root)
    for name in [model.name for model in mlflow_store.pages(client.search_registered_models) if RUN in model.tags]:
        yield from _aliases(root, name)
        yield from _half_registered(root, client, name)


def _packages(root: Path) -> Iterator[Leftover]:
    """Folders in which a version was put together."""
    for folder in sorted((root / ".genforge" / "registry").glob(f"{PACKAGES}*")):
        named = re.match(rf"{PACKAGES}(\d+)-(\d+)-", folder.name)
        if named is not None:
            builder = Identity(int(named[1]), float(named[2]), Identity.own().host)
            if builder.is_gone():
                what = f"a version was put together here by process {builder.pid}, which has ended"
                yield Leftover("folder", str(folder), what, "delete it", partial(shutil.rmtree, folder, True))


def _aliases(root: Path, name: str) -> Iterator[Leftover]:
    """Aliases that are not what the last entry of their history says."""
    registry = Registry(root, name)
    for alias, (move, holder) in registry.unsettled().items():
        held = "nobody's" if holder is None else f"version {holder}"
        if move is None:
            what, remedy = f"it is {held}, and its history is empty", "write into its history that it was moved by hand"
        else:
            what = f"it is {held}; the last entry of its history moves it from {move.before} to {move.after}"
            in_between = holder in (move.before, move.after)
            remedy = "finish that move" if in_between else "write into its history that it was moved by hand"
        yield Leftover("alias", f"{name}@{alias}", what, remedy, registry.settle)


def _half_registered(root: Path, client: MlflowClient, name: str) -> Iterator[Leftover]:
    """Models of MLflow whose upload was cut, or that were cut off from their version."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return
    versions = client.search_model_versions(f"name = '{name}'")
    used = {_model_of(version) for version in versions}
    for model in mlflow_store.pages(partial(client.search_logged_models, [experiment.experiment_id])):
        if model.model_id not in used and _is_abandoned(model):
            what = f"the model {model.name!r} was being registered when its process ended; no version names it"
            mend = partial(_delete, root, client, name, model.model_id)
            yield Leftover("half a version", model.model_id, what, "delete it from MLflow", mend)


def _model_of(version: Any) -> str:
    """The id of the model that a version names. A server does not tell it as `model_id`, but in the source alone."""
    return str(version.model_id or str(version.source).removeprefix("models:/"))


def _is_abandoned(model: Any) -> bool:
    """A model of ours whose process has ended; on another machine: whose process has had a day."""
    if PROCESS not in model.tags:
        return False
    builder = Identity.from_json(json.loads(model.tags[PROCESS]))
    if builder.is_here():
        return builder.is_gone()
    return time.time() - model.creation_timestamp / 1000 > LONG


def _delete(root: Path, client: MlflowClient, name: str, model_id: str) -> None:
    """Delete the model, unless a version has been given it meanwhile."""
    from mlflow.exceptions import MlflowException

    try:
        if not any(_model_of(version) == model_id for version in client.search_model_versions(f"name = '{name}'")):
            client.delete_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise mlflow_store.in_words(error, root, f"MLflow does not delete the model {model_id}") from None
