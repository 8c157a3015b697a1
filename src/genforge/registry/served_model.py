"""What a registered model does when somebody loads it: MLflow runs this file, in their process.

It imports nothing of this project by name. The source that the model needs lies beside it, under a package name of its
own (`packaging.py`), so that several versions of a model live in one process, with this project installed or not.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedModel(PythonModel):
    """Draws images.

    Input: rows with `n`, how many images, and for a conditional model `label` (none: every class as often). Output:
    the rows' images one after another, uint8 (images, height, width, channels), or points float32 (points, 1, 1, 2).
    Parameters: `seed`; `first`, the number of the first image of this seed; `batch_size`, images drawn together. Image
    i of a seed is always the same image.

    Configuration at loading: `device`, `cpu`, `cuda` or `auto` (the GPU where there is one).
    """

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model"])
        carried = json.loads((folder / "carried.json").read_text())

        def find(table: str, name: str) -> Any:
            module, _, attribute = carried[table][name].partition(":")
            return getattr(importlib.import_module(module), attribute)

        device = (context.model_config or {}).get("device", "auto")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        models = importlib.import_module(carried["models"])
        self.model = models.load(folder, find, device)

    def predict(  # type: ignore[override]  # MLflow takes it without `context` too
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        asked = {"seed": 0, "first": 0, "batch_size": 250, **(params or {})}
        if asked["seed"] < 0 or asked["first"] < 0 or asked["batch_size"] < 1:
            raise ValueError(f"seed and first should be 0 or more and batch_size 1 or more, not {asked}")
        labels = model_input["label"] if "label" in model_input else pd.Series([None] * len(model_input))
        parts, first = [], asked["first"]
        for count, label in zip(model_input["n"], labels, strict=True):
            if count < 0:
                raise ValueError(f"n should be 0 or more, not {count}")
            chosen = None if pd.isna(label) else torch.full((int(count),), self._checked(int(label)))
            parts.append(self.model.draw(asked["seed"], int(count), first, chosen, asked["batch_size"]))
            first += int(count)
        return np.concatenate(parts)

    def _checked(self, label: int) -> int:
        if not 0 <= label < self.model.classes:
            raise ValueError(f"label should be 0 to {self.model.classes - 1} for this model, not {label}")
        return label


set_model(ServedModel())
