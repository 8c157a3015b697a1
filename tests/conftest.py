"""Every test runs on one thread, without telemetry, without a network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

os.environ.update(
    DO_NOT_TRACK="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
    OMP_NUM_THREADS="1",
    GENFORGE_UPLOADER="off",  # tests of the uploader start it themselves
)

import pytest
import torch

from tests.postgresql import postgresql as postgresql  # a fixture for all


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: making one takes seconds, copying it none."""
    from genforge.tracking.mlflow_store import DATABASE, connect

    folder = tmp_path_factory.mktemp("store")
    connect(folder)
    return folder / DATABASE


@pytest.fixture
def tracked(tmp_path: Path, new_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with an empty MLflow store of its own, and no pipeline run around it."""
    for name in ("MLFLOW_TRACKING_URI", "GENFORGE_PIPELINE_RUN"):
        monkeypatch.delenv(name, raising=False)
    shutil.copyfile(new_store, tmp_path / new_store.name)
    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    return tmp_path
