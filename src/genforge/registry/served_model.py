"""What a registered model does when somebody loads it: MLflow runs this file, in their process.

It imports nothing of this project by name. The source that the model needs lies beside it, under a package name of its
own (`packaging.py`), so that several versions of a model live in one process, with this project installed or not.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

REGISTERED = "registered_model_meta"  # MLflow writes there which version of which registered model it has fetched
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # environment: MLflow's server of models sets it to true
MOST_SERVED = 1000  # images that one request to a server may ask for


class ServedModel(PythonModel):
    """Draws images.

    Input: rows with `n`, how many images, and for a conditional model `label` (none: every class as often). Output:
    the rows' images one after another, uint8 (images, height, width, channels), or points float32 (points, 1, 1, 2).
    Parameters: `seed`; `first`, the number of the first image of this seed; `batch_size`, images drawn together. Image
    i of a seed is always the same image.

    In `mlflow models serve` every image leaves with its provenance. The output is a list of objects, one an image, with
    `png` (a PNG file in base64, with text and, from 64x64 up, a watermark), `model`, `version`, `weights`, `seed`,
    `index` and `label`; a request may ask for 1,000 images.

    Configuration at loading: `device`, `cpu`, `cuda` or `auto` (the GPU where there is one).
    """

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model"])
        carried = json.loads((folder / "carried.json").read_text("utf-8"))

        def find(table: str, name: str) -> Any:
            module, _, attribute = carried[table][name].partition(":")
            return getattr(importlib.import_module(module), attribute)

        device = (context.model_config or {}).get("device", "auto")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        models = importlib.import_module(carried["models"])
        self.model = models.load(folder, find, device)
        self.provenance = importlib.import_module(carried["provenance"])
        name, version = _registered(folder) or (self.model.card["name"], None)
        self.origin = {"model": name, "version": version, "weights": models.digest(folder)}

    def predict(  # type: ignore[override]  # MLflow takes it without `context` too
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray | list[dict[str, Any]]:
        asked = {"seed": 0, "first": 0, "batch_size": 250, **(params or {})}
        if asked["seed"] < 0 or asked["first"] < 0 or asked["batch_size"] < 1:
            raise ValueError(f"seed and first should be 0 or more and batch_size 1 or more, not {asked}")
        is_served = os.environ.get(SERVING) == "true"
        counts = [int(count) for count in model_input["n"]]
        if min(counts, default=0) < 0:
            raise ValueError(f"n should be 0 or more, not {min(counts)}")
        if is_served and sum(counts) > MOST_SERVED:
            raise ValueError(f"a request may ask for {MOST_SERVED} images at most, not {sum(counts)}; ask for the rest "
                             f"by others, with `first`")  # fmt: skip
        labels: Any = model_input["label"] if "label" in model_input else [None] * len(counts)
        chosen = [None if pd.isna(label) else self._checked(int(label)) for label in labels]
        parts, first = [], asked["first"]
        for count, label in zip(counts, chosen, strict=True):
            wanted = None if label is None else torch.full((count,), label)
            parts.append(self.model.draw(asked["seed"], count, first, wanted, asked["batch_size"]))
            first += count
        images = np.concatenate(parts)
        if not is_served:
            return images
        each = [label for count, label in zip(counts, chosen, strict=True) for _ in range(count)]
        origin = self.provenance.Provenance(**self.origin, seed=asked["seed"], index=asked["first"])
        return self.provenance.served(images, each, origin)

    def _checked(self, label: int) -> int:
        if not 0 <= label < self.model.classes:
            raise ValueError(f"label should be 0 to {self.model.classes - 1} for this model, not {label}")
        return label


def _registered(folder: Path) -> tuple[str, int] | None:
    """Name and version of the registered model that `folder` was fetched as a part of; None where it was not."""
    for parent in folder.parents:
        if (parent / "MLmodel").is_file():
            note = parent / REGISTERED
            if not note.is_file():
                return None
            said = dict(line.split(": ", 1) for line in note.read_text("utf-8").splitlines() if ": " in line)
            return said["model_name"], int(said["model_version"].strip("'\""))
    return None


set_model(ServedModel())
