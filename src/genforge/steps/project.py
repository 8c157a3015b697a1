"""Where everything of a project lies, and what every step starts from."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from genforge import slots
from genforge.config import Config, load
from genforge.cores import limit
from genforge.files import read_json
from genforge.settings import UserError

if TYPE_CHECKING:
    from genforge.catalog import Recipe


@dataclass(frozen=True)
class Project:
    """A folder with `params.yaml`, its settings, and the places of its data and results.

    `data/` and `results/` hold the outputs of steps, whose versions DVC keeps. `.genforge/` holds the state of this
    machine: checkpoints, run logs, locks, the search's journal.
    """

    root: Path
    config: Config

    @classmethod
    def load(cls, root: Path = Path()) -> Project:
        """Raises UserError when `params.yaml` is missing or wrong."""
        return cls(root, load(root / "params.yaml"))

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw"

    @property
    def prepared(self) -> Path:
        return self.root / "data" / "prepared"

    @property
    def source_folder(self) -> Path:
        """Where the user's images lie: `data.folder`, relative to the project."""
        return self.root / self.config.data.folder

    @property
    def results(self) -> Path:
        return self.root / "results"

    def recipe_file(self, name: str) -> Path:
        """The recipe as resolved, with the digest of its code."""
        return self.results / "recipes" / f"{name}.json"

    def code_file(self, stage: str) -> Path:
        """The digests of the code that decides what a stage makes."""
        return self.results / "code" / f"{stage}.json"

    @property
    def extractor(self) -> Path:
        return self.results / "extractor"

    def search(self, name: str) -> Path:
        return self.results / "search" / name

    def model(self, name: str) -> Path:
        return self.results / "models" / name

    def curves(self, name: str) -> Path:
        """The training's logged values, where `dvc plots` finds them."""
        return self.results / "curves" / f"{name}.csv"

    def samples(self, name: str) -> Path:
        return self.results / "samples" / name

    def samplers(self, name: str) -> Path:
        """What samplers times steps draw from one trained denoiser, at what cost (`genforge samplers`)."""
        return self.results / "samplers" / name

    def averages(self, name: str) -> Path:
        """What averages of different lengths of one training are worth (`genforge ema`)."""
        return self.results / "ema" / name

    def evaluation(self, name: str) -> Path:
        """What the judge found of one recipe, or of `floor`, held-out real images: every value, with the protocol."""
        return self.results / "evaluations" / f"{name}.json"

    def metrics(self, name: str) -> Path:
        """The same in short, for `dvc metrics`: the mean of each metric, and half of its interval."""
        return self.results / "metrics" / f"{name}.json"

    @property
    def gates(self) -> Path:
        """What each model's gates found of it alone, and the pictures of what looks most like a copy."""
        return self.results / "gates"

    @property
    def verdicts(self) -> Path:
        """Why each alias moved or stayed at the last registration."""
        return self.results / "verdicts"

    @property
    def lineage(self) -> Path:
        """From each alias to the raw images, as drawn chains, as it was when `register` ended."""
        return self.results / "lineage"

    @property
    def leaderboard(self) -> Path:
        return self.results / "leaderboard.json"

    @property
    def report(self) -> Path:
        return self.results / "report"

    @property
    def registered(self) -> Path:
        return self.results / "registered.json"

    @property
    def state(self) -> Path:
        return self.root / ".genforge"

    @cached_property
    def device(self) -> str:
        """`cpu` or `cuda`, for this process to use: it waits here for a GPU of its own and holds it to its end.

        Raises UserError when `device: cuda` is asked for and there is none.
        """
        if self.config.device != "cpu":
            slots.take()
        return self.device_of_workers

    @property
    def device_of_workers(self) -> str:
        """The same for processes that this one starts, each of which takes its own: nothing is waited for or held."""
        wanted = self.config.device
        if wanted == "cpu":
            return wanted
        import torch

        if wanted == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "device: 'cuda' was asked for, but torch finds no CUDA device here; set device: auto or cpu"
            )
        return "cuda" if torch.cuda.is_available() else "cpu"

    def lock(self, name: str) -> Path:
        """The file of a lock within this project: one writer of a step's outputs, one flow."""
        return self.state / "locks" / f"{quote(name, safe='@')}.lock"

    def use_threads(self) -> None:
        """Take as many CPU threads as `GENFORGE_THREADS` says (a flow that runs steps side by side sets it), or as a
        container's quota pays for.

        NumPy has been imported by now, and its BLAS with a thread a core: left so, two steps on two cores spend four
        times as long in small matrices, waiting for one another. Torch may still be to come, or never come.
        """
        if threads := limit():
            from threadpoolctl import threadpool_limits

            os.environ["OMP_NUM_THREADS"] = str(threads)  # what torch takes when it is imported
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(threads)
            threadpool_limits(threads, user_api="blas")

    def check_recipe(self, name: str) -> None:
        """Raises UserError with the nearest name when params.yaml has no such recipe."""
        if name not in self.config.recipes:
            from genforge.settings import nearest

            raise UserError(f"params.yaml has no recipe {name!r}; {nearest(name, sorted(self.config.recipes))}")

    def recipe(self, name: str) -> Recipe:
        """The resolved recipe, as the step `resolve` wrote it."""
        from genforge.catalog import Recipe

        self.check_recipe(name)
        return Recipe.read(read_json(self.recipe_file(name))["recipe"], f"recipes.{name}")
