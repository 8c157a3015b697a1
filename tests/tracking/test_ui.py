"""`genforge ui` shows the project's runs on loopback, and ends with its signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest


@pytest.mark.slow
def test_the_ui_answers_on_loopback_and_ends_with_its_signal(tracked: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "genforge.cli", "ui", "--port", str(port)]
    with (tracked / "log").open("wb") as log:
        ui = subprocess.Popen(command, cwd=tracked, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        assert "<title>MLflow</title>" in page(f"http://127.0.0.1:{port}/", ui)
        family = [psutil.Process(ui.pid), *psutil.Process(ui.pid).children(recursive=True)]
        addresses = {
            link.laddr.ip for process in family for link in process.net_connections() if link.status == "LISTEN"
        }
        assert addresses == {"127.0.0.1"}
    finally:
        ui.send_signal(signal.SIGTERM)
        ui.wait(120)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


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
