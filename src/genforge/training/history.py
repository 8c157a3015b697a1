"""What a run has told so far: logged values and observed images, on disk beside its checkpoints.

A run that is stopped and resumed tells its whole story at the end, and tells each part of it once: what was logged
after the checkpoint that it goes on from is logged again with the same step, and is recognised by it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from genforge.files import read_array, replacing, write_array


class History:
    """Values and images by step, kept in `folder`.

    Attributes:
        rows: step to logged values. images: step to observed images, uint8 (n, height, width, channels).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "values.jsonl"
        self.rows: dict[int, dict[str, float]] = {}
        if self._file.is_file():
            for line in self._file.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # the line that a killed process did not finish
                    step, values = json.loads(line)
                    self.rows[step] = values
        found = sorted(folder.glob("observed-*.npy"))
        self.images = {int(path.stem.removeprefix("observed-")): read_array(path) for path in found}

    def add(self, step: int, values: Mapping[str, float]) -> bool:
        """Keep the values of a step; False when they were known."""
        if step in self.rows:
            return False
        self.rows[step] = dict(values)
        with self._file.open("a") as file:
            # A line break in front: after a line that was cut off, this one still stands by itself.
            file.write("\n" + json.dumps([step, self.rows[step]]))
        return True

    def see(self, step: int, images: np.ndarray) -> bool:
        """Keep the images of a step; False when they were known."""
        if step in self.images:
            return False
        self.images[step] = images
        write_array(self.folder / f"observed-{step:010d}.npy", images)
        return True

    def write_csv(self, path: Path) -> None:
        """One row a step, one column a value, empty where a step has no such value."""
        columns = list(dict.fromkeys(name for values in self.rows.values() for name in values))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["step", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **self.rows[step]} for step in sorted(self.rows))
        with replacing(path, "w") as file:
            file.write(text.getvalue())

    def film(self) -> np.ndarray:
        """The observed images in the order of their steps, uint8 (steps * n, ...), for a grid of n columns."""
        return np.concatenate([self.images[step] for step in sorted(self.images)])
