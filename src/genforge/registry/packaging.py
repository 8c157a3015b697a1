"""A trained model as an MLflow model that stands by itself.

It holds the weights as safetensors, the card that says how the network is built, and the source of every module that
drawing needs and of no other: no objective, no training loop. The source lies under a package name made of its own
digest, with its imports rewritten to that name, so that it is never mistaken for the installed genforge or for another
version's. Nothing is pickled: it loads with MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge import catalog
from genforge.catalog import Exported
from genforge.files import read_json, write_json
from genforge.imports import NAME, closure, code_digest
from genforge.registry.clean_process import owners_of_modules
from genforge.tracking.mlflow_store import quiet

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MODELS = f"{NAME}.models"  # the module that loads a model folder
PROVENANCE = f"{NAME}.provenance"  # and the one that marks what is served
SCRIPT = Path(__file__).parent / "served_model.py"
_IMPORT = re.compile(rf"^(\s*(?:from|import)\s+){NAME}\b", re.MULTILINE)


def package(folder: Path, target: Path, model_id: str | None = None, run_id: str | None = None) -> None:
    """Write the trained model of `folder` as an MLflow model to the new folder `target`.

    Args:
        model_id, run_id: MLflow's own ids of the model and of the run that trained it, kept in its MLmodel file.
    """
    quiet()
    import mlflow.pyfunc
    from mlflow.models import Model

    exported = Exported.from_json(read_json(folder / "model.json")["exported"])
    modules = [MODELS, PROVENANCE, *exported.modules()]
    name = f"{NAME}_{code_digest(modules)[:12]}"
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:  # removed with the target's, if we are killed
        carried = Path(staging, "model")
        carried.mkdir()
        for file in ("model.json", "weights.safetensors"):
            shutil.copyfile(folder / file, carried / file)
        write_json(carried / "carried.json", _carried(modules, name))
        carry_source(modules, Path(staging), name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*An input example was not provided")  # the signature says it all
            mlflow.pyfunc.save_model(
                path=target,
                python_model=str(SCRIPT),
                artifacts={"model": str(carried)},
                code_paths=[str(Path(staging, name))],
                signature=signature(exported),
                model_config={"device": "auto"},
                pip_requirements=requirements(modules),
                mlflow_model=Model(model_id=model_id, model_uuid=model_id, run_id=run_id),
            )


def carry_source(modules: Iterable[str], target: Path, name: str) -> None:
    """Copy what `modules` need into the package `name` under `target`."""
    for module, path in closure(modules).items():
        parts = [name, *module.split(".")[1:]]
        copy = target.joinpath(*parts, "__init__.py") if path.name == "__init__.py" else target.joinpath(*parts)
        copy = copy if copy.suffix == ".py" else copy.with_suffix(".py")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(_IMPORT.sub(rf"\g<1>{name}", path.read_text("utf-8")), "utf-8")


def signature(exported: Exported) -> ModelSignature:
    """What `predict` takes and gives, see `served_model.py`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.long, "n")]
    if exported.port.classes:
        inputs.append(ColSpec(DataType.long, "label", required=False))
    image = exported.port.image
    pixels = TensorSpec(np.dtype(image.stored), (-1, image.height, image.width, image.channels))
    defaults = {"seed": 0, "first": 0, "batch_size": 250}
    params = [ParamSpec(key, DataType.long, value) for key, value in defaults.items()]
    return ModelSignature(Schema(inputs), Schema([pixels]), ParamSchema(params))


def requirements(modules: Iterable[str]) -> list[str]:
    """The packages that `modules` and the served model import, at the versions that are installed here."""
    found = {name for path in [SCRIPT, *closure(modules).values()] for name in _foreign_imports(path)}
    packages = owners_of_modules()
    # One name may come from several distributions (mlflow and mlflow-skinny): the one of that name is meant.
    distributions = {next((p for p in packages[name] if p.lower() == name), packages[name][0]) for name in found}
    # The public part of a version: `2.13.0`, not `2.13.0+cpu`, which only some indexes have.
    return sorted(f"{name}=={metadata.version(name).partition('+')[0]}" for name in distributions)


@cache
def _foreign_imports(path: Path) -> frozenset[str]:
    """Top-level names of the packages that a file imports, neither ours nor Python's."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return frozenset(names - {NAME} - sys.stdlib_module_names)


def _carried(modules: Iterable[str], name: str) -> dict[str, Any]:
    """Where the served model finds classes by the names in its card, in the package that it carries."""
    inside = closure(modules)

    def renamed(table: Mapping[str, str]) -> dict[str, str]:
        targets = {key: target for key, target in table.items() if target.partition(":")[0] in inside}
        return {key: name + target.removeprefix(NAME) for key, target in targets.items()}

    return {
        "models": name + MODELS.removeprefix(NAME),
        "provenance": name + PROVENANCE.removeprefix(NAME),
        "network": renamed(catalog.NETWORKS),
        "sampler": renamed(catalog.SAMPLERS),
    }
