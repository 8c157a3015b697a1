"""Every test runs on one thread, without telemetry, without a network."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import tempfile
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

import psutil
import pytest
from filelock import FileLock

from tests.postgresql import postgresql as postgresql  # a fixture for all

sys.dont_write_bytecode = False  # else each run of pytest compiles every test

MEMORY, ROOM = Path("/dev/shm"), 6 * 2**30  # bytes: a whole run of the suite has less than 1 GiB at a time


def _folders_in_memory() -> bool:
    """Whether temporary files can lie in memory: thousands of small databases are made, synced and thrown away, and
    nothing of them has to outlive a power cut. Not where the user says where they lie."""
    with contextlib.suppress(OSError):
        place = os.statvfs(MEMORY)
        runs_programs = not place.f_flag & os.ST_NOEXEC
        has_room = min(place.f_bavail * place.f_frsize, psutil.virtual_memory().available) >= ROOM
        return "TMPDIR" not in os.environ and runs_programs and has_room and os.access(MEMORY, os.W_OK)
    return False


if _folders_in_memory():
    os.environ["TMPDIR"] = str(MEMORY)  # workers of xdist, and all processes that tests start, have it from here
    tempfile.tempdir = None  # where pytest has looked already


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting makes lives to the end: looking for garbage in it takes seconds, and finds none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# The longest files first, so that no worker begins a story of minutes when the others are through.
LONGEST = (
    "test_servers", "test_story", "test_campaign", "test_retrain_apart", "test_retrain", "test_schedule",
    "test_far_repository", "test_presets_run", "test_mlflow_servers", "test_search_run", "test_doctor_mends",
    "test_train_together", "test_parallel", "test_search", "test_ui", "test_uploader", "test_serving",
    "test_killed_training", "test_inception", "test_train_stopped",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the slow tests of LONGEST, a file a hand, to the beginnings of the parts that xdist gives to its workers."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    files = {name: [item for item in items if item.path.stem == name and "slow" in item.keywords] for name in LONGEST}
    hands = [[item for name in LONGEST[first::workers] for item in files[name]] for first in range(workers)]
    dealt = {item for hand in hands for item in hand}
    rest = [item for item in items if item not in dealt]
    parts: list[pytest.Item] = []
    count = len(items)
    for left, hand in zip(range(workers, 0, -1), hands, strict=True):
        size = count // left  # as xdist's scheduler `worksteal` cuts what there is
        parts += hand + rest[: max(0, size - len(hand))]
        rest = rest[max(0, size - len(hand)) :]
        count -= size
    items[:] = parts + rest


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch  # here, since the process that deals out the tests has no use for it

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
