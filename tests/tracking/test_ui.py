"""`genforge ui` shows the project's runs and searches on loopback, and ends with its signal."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from genforge.search.dashboard import is_installed
from genforge.tracking import mlflow_store
from genforge.tracking import runs as tracking
from tests.ports import free_port


@pytest.mark.slow
def test_the_ui_answers_on_loopback_and_ends_with_its_signal(tracked: Path) -> None:
    port, search_port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "genforge.cli", "ui", "--port", str(port), "--search-port", str(search_port)]
    with (tracked / "log").open("wb") as log:
        ui = subprocess.Popen(command, cwd=tracked, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        assert "<title>MLflow</title>" in page(f"http://127.0.0.1:{port}/", ui)
        if is_installed():
            assert "<title>Optuna Dashboard</title>" in page(f"http://127.0.0.1:{search_port}/dashboard", ui)
        family = [psutil.Process(ui.pid), *psutil.Process(ui.pid).children(recursive=True)]
        assert set(listening(family)) == {"127.0.0.1"}
        # Whatever stands in the database's address (a password, elsewhere) is on nobody's command line.
        assert not any(mlflow_store.store_uri(tracked) in " ".join(process.cmdline()) for process in family)
    finally:
        ui.send_signal(signal.SIGTERM)
        ui.wait(120)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


@pytest.mark.slow
def test_a_port_that_is_taken_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # a server with pages of its own
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "genforge.cli", "ui", "--search-port", port]
        ui = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert "http://127.0.0.1:9, where MLFLOW_TRACKING_URI points to" in ui.stderr + ui.stdout
    if is_installed():
        assert ui.returncode == 2 and f"port {port}" in ui.stderr and "--search-port" in ui.stderr


def listening(family: list[psutil.Process]) -> Iterator[str]:
    """The addresses at which they wait for others. Servers start and end helpers at any time."""
    for process in family:
        with contextlib.suppress(psutil.Error):
            yield from (link.laddr.ip for link in process.net_connections() if link.status == "LISTEN")


def page(address: str, server: subprocess.Popen[bytes], seconds: float = 400) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(address)


def test_the_newest_evaluation_of_every_recipe_is_compared(tracked: Path) -> None:
    assert tracking.places_to_look(tracked) == {"no runs yet": "/#/experiments?workflowType=machine_learning"}
    for name in ("floor", "gan", "vae", "gan"):
        with tracking.run(tracked, "evaluate", name):
            pass
    with tracking.run(tracked, "train", "gan"):
        pass
    assert tracking.upload_all(tracked).left == {}
    client = mlflow_store.connect(tracked)
    experiment = client.get_experiment_by_name("digits").experiment_id
    runs = client.search_runs([experiment], "tags.`genforge.kind` = 'evaluate'", order_by=["start_time DESC"])
    newest = {run.data.tags["genforge.name"]: run.info.run_id for run in reversed(runs)}
    places = {what: unquote(place) for what, place in tracking.places_to_look(tracked).items()}
    assert places["runs"] == f"/#/experiments/{experiment}/runs?workflowType=machine_learning"
    compared = re.findall("[0-9a-f]{32}", places["how models compare"])
    assert sorted(compared) == sorted([newest["gan"], newest["vae"]])
