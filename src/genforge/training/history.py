"""What a run has told so far: logged values and observed images, a part of its checkpoints.

A run that is stopped and resumed, or that falls back to a checkpoint, has the history of that checkpoint and adds to it
from there: so at its end the history is that of the steps that led to the weights, and of no others.

A listener (the tracker) cannot take a point back. It hears of each step once: of a resumed run the whole story from its
beginning, since it is a new listener; after a fall back nothing of the steps that it has heard of already. Of those it
keeps the points of the attempt that failed, and the history those of the one that did not.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genforge.files import replacing

Log = Callable[[int, dict[str, float]], None]
Show = Callable[[int, np.ndarray], None]


class History:
    """Values and images by step, each in the order of steps.

    Args:
        log: is told the step and its values. show: the step and its images.

    Attributes:
        rows: step to logged values, all finite. images: step to observed images, as they are stored (n, height, width,
            channels).
    """

    def __init__(self, log: Log | None = None, show: Show | None = None) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.images: dict[int, np.ndarray] = {}
        self._log, self._show = log, show
        self._logged = self._shown = -1  # the last step that the listeners have heard of

    def add(self, step: int, values: Mapping[str, float], passing: Mapping[str, float] | None = None) -> None:
        """Keep the values of a step. `passing` ones (seconds, speed) are told beside them and not kept: they are a
        matter of the machine and the hour, and no two runs share them."""
        self.rows[step] = dict(values)
        if self._log is not None and step > self._logged:
            self._logged = step
            self._log(step, {**values, **(passing or {})})

    def see(self, step: int, images: np.ndarray) -> None:
        """Keep the images of a step."""
        self.images[step] = images
        if self._show is not None and step > self._shown:
            self._shown = step
            self._show(step, images)

    @property
    def columns(self) -> list[str]:
        """Names of all values, in the order in which they first came."""
        return list(dict.fromkeys(name for values in self.rows.values() for name in values))

    def tensors(self) -> dict[str, Tensor]:
        """The history for a checkpoint: `steps` (rows,), `values` (rows, columns) with NaN where a row has no such
        value, and `images.<step>`. The names of the columns are not in it."""
        columns = self.columns
        table = [[values.get(name, math.nan) for name in columns] for values in self.rows.values()]
        return {
            "steps": torch.tensor(list(self.rows), dtype=torch.int64),
            "values": torch.tensor(table, dtype=torch.float64).reshape(len(self.rows), len(columns)),
            **{f"images.{step}": torch.from_numpy(images) for step, images in self.images.items()},
        }

    def restore(self, columns: list[str], tensors: Mapping[str, Tensor]) -> None:
        """Be what `tensors` took, and tell the listeners of what they have not heard."""
        self.rows, self.images = {}, {}
        for step, values in zip(tensors["steps"].tolist(), tensors["values"].tolist(), strict=True):
            self.add(step, {name: value for name, value in zip(columns, values, strict=True) if value == value})
        seen = {
            int(key.removeprefix("images.")): images for key, images in tensors.items() if key.startswith("images.")
        }
        for step in sorted(seen):
            self.see(step, seen[step].numpy())

    def write_csv(self, path: Path) -> None:
        """One row a step, one column a value, empty where a step has no such value."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["step", *self.columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **values} for step, values in self.rows.items())
        with replacing(path, "w") as file:
            file.write(text.getvalue())
