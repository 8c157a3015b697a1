"""From a registered model to the words that its images carry, and back from an image to the versions that drew it."""

from __future__ import annotations

import re
from pathlib import Path

from genforge.provenance import Provenance
from genforge.registry.registry import Unusable, reading
from genforge.settings import UserError
from genforge.tracking import mlflow_store

ADDRESS = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<number>[0-9]+))")
WEIGHTS = "genforge.weights"  # tag of a version


def origin(root: Path, uri: str) -> Provenance:
    """What an image of the model at `uri` says, but for its seed and number: which version an alias is now.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        Unusable: there is no such version, or it was not registered by genforge.
        UserError: no registry is here, it does not answer, or `uri` is something else.
    """
    found = ADDRESS.fullmatch(uri)
    if found is None:
        raise UserError(f"{uri!r} should be models:/NAME@ALIAS or models:/NAME/VERSION, such as models:/digits@staging")
    check_is_there(root)
    name, alias, number = found["name"], found["alias"], found["number"]
    with reading(root, uri) as client:
        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    if WEIGHTS not in version.tags:
        raise Unusable(f"{uri} is version {version.version}, which genforge has not registered")
    return Provenance(name, int(version.version), version.tags[WEIGHTS], seed=0, index=0)


def versions_of(root: Path, digest: str) -> list[str]:
    """NAME/VERSION of every registered version whose digest of the weights begins with these hex digits.

    Raises:
        UserError: no registry is here, or it does not answer.
    """
    check_is_there(root)
    client = mlflow_store.reach(root)
    found = client.search_model_versions(f"tags.`{WEIGHTS}` LIKE '{digest}%'")
    return sorted(f"{version.name}/{version.version}" for version in found)


def check_is_there(root: Path) -> None:
    """Raises UserError where asking would make an empty registry in somebody's folder."""
    if not mlflow_store.is_there(root):
        raise UserError(
            f"no registry is known here: {root.resolve()} holds no {mlflow_store.DATABASE}; name one, such as "
            f"MLFLOW_TRACKING_URI=http://127.0.0.1:5000, or go to the project's folder"
        )
