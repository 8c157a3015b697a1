"""Every test runs on one thread, without telemetry, without a network."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path

os.environ.update(
    DO_NOT_TRACK="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
    OMP_NUM_THREADS="1",
    GENFORGE_UPLOADER="off",  # tests of the uploader start it themselves
)

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else hundreds of processes compile the same files

import pytest
import torch
from filelock import FileLock

from tests.postgresql import postgresql as postgresql  # a fixture for all

sys.dont_write_bytecode = False  # else each run of pytest compiles every test


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting makes lives to the end: looking for garbage in it takes seconds, and finds none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made_once(name, fill)`: a folder that the first test which asks for it fills, for every worker of the session.
    To be read and copied, never written into."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        place, done = shared / "made-once" / name, shared / "made-once" / f"{name}.done"
        place.parent.mkdir(exist_ok=True)
        with FileLock(place.with_name(f"{name}.lock")):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # of one that failed
                place.mkdir()
                fill(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def new_store(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """An MLflow database without runs: making one takes seconds, copying it none."""
    from genforge.tracking.mlflow_store import DATABASE, connect

    return made_once("mlflow", connect) / DATABASE


@pytest.fixture
def tracked(tmp_path: Path, new_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with an empty MLflow store of its own, and no pipeline run around it."""
    for name in ("MLFLOW_TRACKING_URI", "GENFORGE_PIPELINE_RUN"):
        monkeypatch.delenv(name, raising=False)
    shutil.copyfile(new_store, tmp_path / new_store.name)
    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    return tmp_path
