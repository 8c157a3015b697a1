"""The whole story on real servers as processes: `make servers`, a schedule, new data, retraining, gates, staging, going
back; no change, no work; a member that is killed; and an end without a trace."""

from __future__ import annotations

import base64
import contextlib
import io
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
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from genforge import cli, ownership
from genforge.processes import words_of
from genforge.settings import UserError
from infra import postgresql
from tests.pipelines import small_project
from tests.pipelines.search_pool import search_by_two_machines
from tests.pipelines.small_project import IMAGES, ROOT, draw_images

PATIENCE = 600.0  # seconds for anything; a machine that is five times slower has time enough
SETTINGS = {
    # So short a training gives images that are much alike; here that shall be no collapse.
    "evaluation": {"images": 50, "metrics": ["fid", "kid"], "collapse_duplicates": 1.0, "collapse_spread": 0.0},
    "recipes": {
        "ddpm": {
            "from": "ddpm",
            "training": {"steps": 120, "batch_size": 16},
            "sampler": {"steps": 5},
            "density": {"steps": 2},
        }
    },
}


class Set:
    """`python -m infra.servers` in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / ".genforge" / "servers"
        self.output = folder / "home" / "servers.txt"
        self.output.parent.mkdir()
        self.environment = {**small_project.environment(folder), **ownership.environment()}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.servers"], cwd=self.folder, env=self.environment, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.wait_until(lambda: "ready:" in self.said())
        for line in (self.state / "environment").read_text().splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value

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
            time.sleep(0.5)  # each look costs the server, too
        raise TimeoutError(self.said() + "".join(log.read_text()[-3000:] for log in self.state.glob("*.log")))

    def members(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def genforge(self, *words: str) -> str:
        """What a command says; it needs no process of its own."""
        said = io.StringIO()
        with mock.patch.dict(os.environ, self.environment), contextlib.chdir(self.folder), redirect_stdout(said):
            assert cli.main(list(words)) == 0, said.getvalue()
        return said.getvalue()

    def prefect(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        login = base64.b64encode(self.environment["PREFECT_API_AUTH_STRING"].encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
        address = f"{self.environment['PREFECT_API_URL']}/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def flow_runs(self, *states: str) -> list[dict[str, Any]]:
        """In one of these states, or in any; oldest first. A schedule has plenty that are to come."""
        wanted = {"flow_runs": {"state": {"type": {"any_": states}}}} if states else {}
        return self.prefect("flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC", **wanted})

    def ended(self, run: str) -> str:
        """What a run says that has ended as it should; empty while it is at work."""
        found = self.prefect(f"flow_runs/{run}", method="GET")
        assert found["state_type"] not in ("FAILED", "CRASHED", "CANCELLED"), (self.state / "worker.log").read_text()
        return found["state"]["message"] if found["state_type"] == "COMPLETED" else ""


@pytest.fixture
def servers() -> Iterator[Set]:
    """The servers of a small project that git and DVC know."""
    try:
        postgresql.binaries()
    except UserError as error:
        pytest.skip(str(error))
    # Not a folder of pytest's: those are closed to PostgreSQL's user, where the tests run as root.
    around = Path(tempfile.mkdtemp(prefix="genforge-servers-"))
    around.chmod(0o755)
    servers = Set(small_project.make(around / "project", SETTINGS))
    for name in ("src", "pipelines", "infra"):  # workers find the flows in the project's folder
        (servers.folder / name).symlink_to(ROOT / name)
    try:
        servers.start()
        yield servers
    finally:
        if servers.process is not None and servers.process.poll() is None:
            family = servers.members()
            servers.process.kill()
            psutil.wait_procs(family, timeout=30)
            servers.process.wait()
        shutil.rmtree(around)


@pytest.mark.slow
def test_a_schedule_retrains_through_the_servers(servers: Set) -> None:
    for secret in ("environment", "settings.json"):
        assert stat.S_IMODE((servers.state / secret).stat().st_mode) == 0o600
    with pytest.raises(urllib.error.HTTPError, match="401"):  # nobody gets in without a login
        urllib.request.urlopen(f"{servers.environment['PREFECT_API_URL']}/admin/version")

    # The schedule comes and the worker runs it. What follows is asked for run by run, so that the test need not wait.
    servers.run(sys.executable, "-m", "pipelines.schedule", "--pool", "gpu", "--every", "30")
    first = servers.wait_until(lambda: servers.flow_runs("RUNNING"))[0]
    deployment = f"deployments/{first['deployment_id']}"
    servers.prefect(deployment, {"paused": True}, "PATCH")
    assert first["auto_scheduled"] and first["work_pool_name"] == "gpu"
    assert first["parameters"]["trigger"] == "anything"

    def another_run() -> str:
        run = servers.prefect(f"{deployment}/create_flow_run", {})["id"]
        return servers.wait_until(lambda: servers.ended(run))

    # What it made is in MLflow, on PostgreSQL, behind its proxy, and nowhere else.
    assert "shapes@staging is version 1" in servers.wait_until(lambda: servers.ended(first["id"]))
    assert not (servers.folder / "mlflow.db").exists()
    assert list((servers.state / "artifacts").rglob("weights.safetensors"))

    search_by_two_machines(servers)

    # New data arrives, which the model of before knows nothing of.
    for old in (servers.folder / IMAGES).iterdir():
        old.unlink()
    draw_images(servers.folder / IMAGES, 200, seed=1, bright=True)
    assert "shapes@staging is version 2" in another_run()

    # And back, by hand. No change, no work: the next run has nothing to do, and leaves it there.
    servers.genforge("rollback", "shapes", "--reason", "the old ones were nicer")
    assert another_run().startswith("nothing new")
    moves = json.loads(servers.genforge("history", "shapes", "--alias", "staging", "--json"))
    assert [(move["before"], move["after"]) for move in moves] == [(None, 1), (1, 2), (2, 1)]

    # A member that is killed is told, started again, and answers as before.
    commands = {member: words_of(member.pid) for member in servers.members()}
    (server,) = [member for member, words in commands.items() if "genforge.ownership" in words and "mlflow" in words]
    server.kill()
    servers.wait_until(lambda: "mlflow was ended by SIGKILL; it is started again" in servers.said())
    servers.wait_until(lambda: _answers(f"{servers.environment['MLFLOW_TRACKING_URI']}/health"))

    # SIGTERM ends all of it.
    family = servers.members()
    assert servers.process is not None
    servers.process.send_signal(signal.SIGTERM)
    assert servers.process.wait(PATIENCE) == 0
    _, alive = psutil.wait_procs(family, timeout=30)
    assert [words_of(process.pid) for process in alive] == []
    assert (servers.state / "postgresql.log").read_text().rstrip().endswith("database system is shut down")


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(address, timeout=5).close()
        return True
    return False
