"""What real kills leave behind: the doctor finds each, mends each, and then the pipeline goes on.

One small project, prepared once; in each test something else of it is killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from genforge.steps import doctor
from genforge.steps.project import Project
from tests.chaos.tiny_project import environment, make
from tests.disasters import strike as disaster
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def fill(place: Path) -> None:
    """A project with everything up to its judge."""
    folder = make(place / "project", ["vae", "box"])
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(
        text.replace("trials: 3", "trials: 1").replace("steps_share: 0.2", "steps_share: 0.05")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        project = Project.load()
        for step in ("resolve", "ingest", "prepare", "extractor"):
            importlib.import_module(f"genforge.steps.{step}").run(project)
    shutil.rmtree(folder / ".genforge" / "runs")  # their logs are in no MLflow: the doctor would send them


@pytest.fixture(scope="module")
def prepared(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return made_once("doctor", fill) / "project"


@pytest.fixture
def project(prepared: Path, tmp_path: Path, new_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to do harm to; what is still alive in it at the end is ended."""
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder, symlinks=True)
    shutil.copy(new_store, folder / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "GENFORGE_PIPELINE_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    yield folder
    for process in started_in(folder):
        process.kill()


def started_in(folder: Path) -> list[psutil.Process]:
    """Processes of ours that work in the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != psutil.Process().pid]


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A command as a user types it, without the uploader unless the test wants one."""
    own = environment(folder, {"GENFORGE_UPLOADER": "off"})
    with (folder / ".genforge" / "test.log").open("ab") as log:
        return subprocess.Popen(words, cwd=folder, env=own, stdout=log, stderr=log, start_new_session=True)


def strike(process: subprocess.Popen[bytes], ready: Callable[[], object], number: int = signal.SIGKILL) -> None:
    """Wait until something is so, then signal the process alone."""
    deadline = time.monotonic() + 400
    while not ready():
        assert process.poll() is None, "it ended before it could be struck"
        assert time.monotonic() < deadline
        time.sleep(0.1)  # to look through all processes of a machine takes a while
    process.send_signal(number)
    process.wait(300)


def found(folder: Path) -> set[str]:
    """Kinds of what the doctor finds."""
    return {finding.leftover.kind for finding in doctor.examine(folder).findings}


def mend(folder: Path) -> None:
    examination = doctor.examine(folder)
    said: list[str] = []
    doctor.mend(examination, said.append)
    assert [finding.to_json() for finding in examination.findings if finding.outcome != "mended"] == []
    assert not examination.blind
    assert len(said) == len(examination.findings)
    assert found(folder) == set()


def goes_on(folder: Path, *words: str) -> None:
    done = start(folder, *words)
    assert done.wait(900) == 0, (folder / ".genforge" / "test.log").read_text()


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / ".genforge" / "checkpoints" / "vae").glob("*/step-*"))


def test_a_killed_trainer(project: Path) -> None:
    assert found(project) == set()
    trainer = start(project, "genforge", "step", "train", "vae")
    strike(trainer, lambda: checkpoints(project) and found(project) == set())  # a living one is nobody's leftover
    newest = max(checkpoints(project))
    shutil.copytree(newest, newest.with_name(f".{newest.name}.0123abcd.tmp"))  # as a kill before a rename leaves it
    assert found(project) >= {"run", "temporary file"}
    mend(project)
    assert newest.is_dir()  # the doctor took nothing that is of use
    goes_on(project, "genforge", "step", "train", "vae")


def test_a_killed_dvc_whose_stage_was_stopped(project: Path) -> None:
    """A stage ends with its DVC, but for one that was stopped (Ctrl-Z, a debugger): it cannot."""
    dvc = start(project, "dvc", "repro", "--single-item", "search@vae")
    strike(dvc, lambda: stop(project, "step", "search", "vae") and found(project) == set())
    wait_for(lambda: found(project) >= {"process", "lock"})
    mend(project)
    wait_for(lambda: not started_in(project))
    goes_on(project, "dvc", "repro", "--single-item", "search@vae")
    mend(project)


def test_a_killed_search(project: Path) -> None:
    """Supervisor and workers at once, as an OOM killer or a power cut takes them."""
    settings = project / "params.yaml"
    text = settings.read_text()
    # A trial that goes on for seconds after its first checkpoint: it must not end before it is killed.
    settings.write_text(text.replace("steps_share: 0.05", "steps_share: 1.0").replace("steps: 400", "steps: 1600"))
    search = start(project, "genforge", "step", "search", "vae")
    wait_for(lambda: list((project / ".genforge" / "search" / "vae").glob("*/trial-*/step-*")))
    os.killpg(search.pid, signal.SIGKILL)
    search.wait()
    wait_for(lambda: found(project) >= {"trial", "run"})  # its workers die with it, and a moment later are gone
    mend(project)
    goes_on(project, "genforge", "step", "search", "vae")
    best = json.loads((project / "results" / "search" / "vae" / "best.json").read_text())
    assert best["trials"] == 1


def test_a_table_of_locks_that_dvc_was_killed_in(project: Path) -> None:
    """DVC truncates its table and then writes it: a kill in between leaves an empty one, and no DVC works any more."""
    table = project / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(exist_ok=True)
    table.write_text("")
    assert start(project, "dvc", "repro", "--single-item", "resolve").wait(300) != 0
    assert found(project) == {"lock"}
    mend(project)
    goes_on(project, "dvc", "repro", "--single-item", "resolve")


def test_an_output_that_was_half_written(project: Path) -> None:
    there = Project.load(project)
    importlib.import_module("genforge.steps.train").run(there, "box")
    mend(project)
    sample = importlib.import_module("genforge.steps.sample")
    assert disaster("kill", 4, project / "results", lambda: sample.run(there, "box")) == -signal.SIGKILL
    assert list((project / "results" / "samples").glob(".*.tmp"))
    wait_for(lambda: "temporary folder" in found(project))
    mend(project)
    sample.run(there, "box")
    assert [path.name for path in (project / "results" / "samples").iterdir()] == ["box"]


def stop(folder: Path, *words: str) -> bool:
    """SIGSTOP to the command of the project that ends in these words, once it has begun its work; False until then."""
    for process in started_in(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = process.cmdline()  # a zombie has none
            is_python = bool(command) and command[0].endswith("python")
            if is_python and command[-len(words) :] == list(words) and process.children():
                process.suspend()
                return True
    return False
