"""`make servers` for real: the set starts, does a scheduled retrain, loses a member and mends, ends without a trace."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from genforge import ownership
from genforge.settings import UserError
from infra import postgresql

ROOT = Path(__file__).parents[2]
PATIENCE = 400.0  # seconds for anything; a machine that is five times slower has time enough
PARAMS = """
seed: 0
data: {name: shapes, source: image_folder, folder: my-images, image_size: 8, channels: 1}
extractor: {steps: 20, width: 8}
evaluation: {images: 50}
search: {trials: 0}
registry: {metric: fid}
gates: {finite: {}, draws-alone: {}}
recipes: {gan: {from: gan-mlp, training: {steps: 20}}}
"""
# Every 30 seconds, and never two at once: so the first does the work, and one after it has nothing to do.
DEPLOY = """
import datetime, sys
from prefect.schedules import Interval
from pipelines.retrain import retrain
flow = retrain.from_source(source=sys.argv[1], entrypoint="pipelines/retrain.py:retrain")
flow.deploy(name="scheduled", work_pool_name="gpu", parameters={"root": sys.argv[1], "jobs": 1}, print_next_steps=False,
            schedule=Interval(datetime.timedelta(seconds=30)), ignore_warnings=True, concurrency_limit=1)
"""


class Set:
    """`python -m infra.servers` in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / ".genforge" / "servers"
        self.output = folder / "servers.txt"
        path = os.pathsep.join([str(folder / "src"), str(folder)])
        self.environment = {**os.environ, **ownership.environment(), "PYTHONPATH": path}
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "GENFORGE_UPLOADER", "GENFORGE_OPTUNA_STORAGE"):
            self.environment.pop(name, None)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.servers"], cwd=self.folder, env=self.environment, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.wait_until(lambda: "ready:" in self.said())
        lines = (self.state / "environment").read_text().splitlines()
        self.environment |= {line.split("=", 1)[0].removeprefix("export "): line.split("=", 1)[1] for line in lines}

    def said(self) -> str:
        return self.output.read_text()

    def wait_until(self, true: Callable[[], Any]) -> Any:
        """What `true` gives when it gives something."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := true():
                return found
            assert self.process.poll() is None, self.said()
            time.sleep(0.2)
        raise TimeoutError(self.said() + "".join(log.read_text()[-3000:] for log in self.state.glob("*.log")))

    def members(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def run(self, *command: str, status: int = 0) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def prefect(self, path: str, body: dict[str, Any]) -> Any:
        login = self.environment["PREFECT_API_AUTH_STRING"]
        headers = {"Content-Type": "application/json"}
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        address = f"{self.environment['PREFECT_API_URL']}/{path}"
        with urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers)) as answer:
            return json.load(answer)

    def flow_runs(self, state: str) -> list[dict[str, Any]]:
        return self.prefect("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": [state]}}}})


def draw_images(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        image = random.normal(80, 20, (8, 8)) + 60 * (np.arange(8) > random.integers(2, 6))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{seed}-{number}.png")


@pytest.fixture
def servers() -> Iterator[Set]:
    """The servers of a small project that git and DVC know."""
    try:
        postgresql.binaries()
    except UserError as error:
        pytest.skip(str(error))
    # Not a folder of pytest's: those are closed to PostgreSQL's user, where the tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="genforge-servers-"))
    folder.chmod(0o755)
    for name in ("src", "pipelines", "infra"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(PARAMS)
    draw_images(folder / "my-images", 200, 0)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    servers = Set(folder)
    try:
        servers.start()
        yield servers
    finally:
        if servers.process is not None and servers.process.poll() is None:
            family = servers.members()
            servers.process.kill()
            psutil.wait_procs(family, timeout=30)
            servers.process.wait()
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_scheduled_retrain_goes_through_the_servers(servers: Set) -> None:
    assert stat.S_IMODE((servers.state / "environment").stat().st_mode) == 0o600
    assert stat.S_IMODE((servers.state / "settings.json").stat().st_mode) == 0o600

    # Nobody gets in without a login.
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{servers.environment['PREFECT_API_URL']}/admin/version")

    # The schedule comes, the worker runs it, and what it made is in MLflow, on PostgreSQL, behind its proxy.
    servers.run(sys.executable, "-c", DEPLOY, str(servers.folder))
    servers.wait_until(lambda: len(servers.flow_runs("COMPLETED")) > 1 or servers.flow_runs("FAILED"))
    assert not servers.flow_runs("FAILED"), (servers.state / "worker.log").read_text()
    for run in servers.flow_runs("COMPLETED"):
        assert run["auto_scheduled"] and run["work_pool_name"] == "gpu"
    servers.run("prefect", "--no-prompt", "deployment", "schedule", "clear", "--accept-yes", "retrain/scheduled")
    assert "everything is up to date: nothing to do" in (servers.state / "worker.log").read_text()
    assert not (servers.folder / "mlflow.db").exists()
    history = json.loads(servers.run(sys.executable, "-m", "genforge.cli", "history", "--json"))
    assert {move["alias"]: move["after"] for move in history} == {"best-gan": 1, "staging": 1}
    servers.run(sys.executable, "-m", "genforge.cli", "sample", "shapes@staging", "-n", "4", "--out", "four.png")
    assert list((servers.state / "artifacts").rglob("weights.safetensors"))

    # A member that is killed is told, started again, and answers as before.
    (server,) = [
        found for found in servers.members() if "mlflow" in found.cmdline() and "genforge.ownership" in found.cmdline()
    ]
    server.kill()
    servers.wait_until(lambda: "mlflow was ended by SIGKILL; it is started again" in servers.said())
    servers.wait_until(lambda: _answers(f"{servers.environment['MLFLOW_TRACKING_URI']}/health"))

    # SIGTERM ends all of it.
    family = servers.members()
    assert servers.process is not None
    servers.process.send_signal(signal.SIGTERM)
    assert servers.process.wait(PATIENCE) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process.cmdline() for process in alive] == []
    log = (servers.state / "postgresql.log").read_text()
    assert log.rstrip().endswith("database system is shut down")


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(address, timeout=5).close()
        return True
    return False
