"""Projects to begin with: what is the same in all of them is made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def _new_repository(folder: Path) -> None:
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)


def _new_history(folder: Path) -> None:
    from pipelines.server import api
    from pipelines.stages import Processes

    with api(folder, Processes()):
        pass


@pytest.fixture
def blank(tmp_path: Path, made_once: MadeOnce) -> Path:
    """A new repository of git and DVC."""
    return shutil.copytree(made_once("repository", _new_repository), tmp_path / "project", symlinks=True)


@pytest.fixture
def history(made_once: MadeOnce, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Gives a folder the database of a Prefect server that has run nothing yet: its first start takes most of the time,
    and is made here, as the flows make it."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    made = made_once("prefect", _new_history)

    def give(folder: Path) -> Path:
        shutil.copytree(made / ".genforge", folder / ".genforge", ignore=shutil.ignore_patterns("*.log"))
        return folder

    return give
