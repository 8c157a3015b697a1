"""A model is drawn from where only what it says it needs can be imported."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from genforge import models
from genforge.catalog import target
from genforge.registry.clean_process import distributions, draw_alone, refused
from genforge.registry.packaging import package
from tests.trained_models import trained_folder


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("alone")
    folder = trained_folder(root / "trained", "gan")
    package(folder, root / "package")
    return folder, root / "package"


def test_it_draws_there_what_it_draws_here(packaged: tuple[Path, Path]) -> None:
    folder, where = packaged
    found = draw_alone(where, 5, 3, os.environ)
    assert found.problem == "" and found.seconds > 0.0
    assert np.array_equal(found.images, models.load(folder, target).draw(3, 5))
    assert any(line.startswith("torch==") for line in found.requirements)


def test_what_the_requirements_do_not_name_is_missing_there(packaged: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(packaged[1], tmp_path / "package")
    (source,) = (tmp_path / "package" / "code").glob("*/models.py")
    source.write_text(f"{source.read_text()}\nimport prefect\n")
    found = draw_alone(tmp_path / "package", 2, 0, os.environ)
    assert found.images is None
    assert "prefect" in found.problem and "not among the model's requirements" in found.problem


def test_requirements_bring_what_they_need_in_turn() -> None:
    brought = distributions(["mlflow==3.17", "--index-url https://example.org", "torch>=2; python_version < '3'"])
    assert {"mlflow", "pandas", "scikit-learn", "scipy"} <= brought
    assert not {"torch", "optuna", "dvc"} & brought
    modules = refused(["mlflow"])
    assert {"genforge", "torch", "optuna", "dvc"} <= modules
    assert not {"mlflow", "numpy", "yaml", "sklearn"} & modules
