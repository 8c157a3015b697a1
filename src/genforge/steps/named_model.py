"""A trained model by the name that a person gives it: a recipe, a folder, or an address in the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genforge.files import read_json
from genforge.settings import UserError, nearest
from genforge.steps.draw import REGISTERED, folder_of
from genforge.steps.project import Project

if TYPE_CHECKING:
    from genforge.models import Model


def named_model(project: Project, name: str, companions: bool = False) -> Model:
    """The model, on the project's device.

    Args:
        name: a recipe of params.yaml, a trained folder such as results/models/vae, or a registered model (NAME@ALIAS,
            NAME/VERSION, `models:/`), which this project's own code is to read, not that which it carries.
        companions: its companions too, which registered models have none of, and its density.

    Raises:
        UserError: there is no such model, it is not trained, or it lacks companions.
    """
    from genforge.catalog import target
    from genforge.models import COMPANIONS, load

    with _folder(project, name) as folder:
        if not (folder / "model.json").is_file():
            raise UserError(
                f"{name} is not trained: there is no {folder / 'model.json'}; run `genforge step train {name}`"
            )
        if companions and read_json(folder / "model.json").get("companions") and not (folder / COMPANIONS).is_file():
            raise UserError(
                f"{name} carries what draws images, and its recipe needs more than that to look at some; name the "
                f"recipe or its trained folder instead, such as results/models/vae"
            )
        return load(folder, target, project.device, companions)


@contextlib.contextmanager
def _folder(project: Project, name: str) -> Iterator[Path]:
    """Where the model lies: in its recipe's results, in a folder, or, for the block, as the registry gave it."""
    if name in project.config.recipes:
        yield project.model(name)
        return
    if not (project.root / name).exists() and not name.startswith("models:/") and not REGISTERED.fullmatch(name):
        raise UserError(
            f"no model is called {name!r}: name a recipe of params.yaml "
            f"({nearest(name, sorted(project.config.recipes))}), a folder with a trained model, NAME@ALIAS such as "
            f"digits@staging, or a `models:/` address"
        )
    with folder_of(name, project.root) as folder:
        yield folder
