"""Does a packaged model draw where only what it says it needs is installed?

A new environment would take minutes to build. Instead a new process of this environment, in isolated mode and an empty
folder, refuses to import anything but Python's own library, what the model carries, and the packages that the model's
requirements.txt names, with what those need in turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
from packaging.requirements import InvalidRequirement, Requirement

from genforge.evaluation.gates.gate import Alone
from genforge.imports import NAME

SECONDS = 300.0  # after this the process counts as hung

# argv: the package, how many images, the seed, the file for the images, names that may not be imported
PROGRAM = """
import json, sys

class Refuse:
    names = set(json.loads(sys.argv[5]))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not among the model's requirements", name=name)

sys.meta_path.insert(0, Refuse())
import mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
images = model.predict({"n": [int(sys.argv[2])]}, params={"seed": int(sys.argv[3])})
numpy.save(sys.argv[4], images, allow_pickle=False)
"""


def draw_alone(package: Path, count: int, seed: int, environment: Mapping[str, str]) -> Alone:
    """Images 0 to `count` - 1 of a seed from the MLflow model in the folder `package`, drawn in a clean process.

    Args:
        environment: of the process, but for what Python itself would read from it.
    """
    needed = [line for line in (package / "requirements.txt").read_text("utf-8").splitlines() if line.strip()]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="genforge-alone-") as folder:
        out = Path(folder, "images.npy")
        arguments = [str(package.absolute()), str(count), str(seed), str(out), json.dumps(sorted(refused(needed)))]
        try:
            ended = subprocess.run(
                [sys.executable, "-I", "-c", PROGRAM, *arguments],
                cwd=folder,
                env={**environment, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Alone(f"nothing was drawn within {SECONDS:.0f} s", None, time.monotonic() - began, needed)
        seconds = time.monotonic() - began
        if ended.returncode != 0 or not out.is_file():
            last = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
            return Alone(last, None, seconds, needed)
        return Alone("", np.load(out, allow_pickle=False), seconds, needed)


def refused(requirements: Iterable[str]) -> set[str]:
    """Top-level modules of everything that is installed here and that `requirements` do not bring; this project
    always."""
    allowed = distributions(requirements)
    modules = owners_of_modules()
    return {NAME, "pipelines"} | {
        name for name, owners in modules.items() if not any(_plain(owner) in allowed for owner in owners)
    }


@cache
def owners_of_modules() -> Mapping[str, list[str]]:
    """Top-level names that can be imported here, each with the distributions that bring it. Reading them takes most of
    a second."""
    return metadata.packages_distributions()


def distributions(requirements: Iterable[str]) -> set[str]:
    """Names of the installed distributions that `requirements` bring, with those that they need in turn."""
    found: set[str] = set()
    waiting = [(line, "") for line in requirements]
    while waiting:
        line, extra = waiting.pop()
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # an option of pip's, such as --index-url
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = _plain(requirement.name)
        extras = ["", *requirement.extras]
        if name in found and extras == [""]:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # it is missing here, and the process will say so if it was needed
        found.add(name)
        waiting.extend((need, wanted) for need in needs for wanted in extras)
    return found


def _plain(name: str) -> str:
    """A distribution's name as PEP 503 writes it."""
    return name.lower().replace("_", "-").replace(".", "-")
