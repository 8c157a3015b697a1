"""The flow on a real Prefect server: stages side by side, failures told, nothing run twice, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  a: {cmd: "sleep 1; echo 1 > a", outs: [a]}
  b: {cmd: "echo 1 > b", outs: [b]}
  c: {cmd: "cat a b > c", deps: [a, b], outs: [c]}
  broken: {cmd: "echo no such luck; false", deps: [b], outs: [broken]}
  after: {cmd: "touch after", deps: [broken], outs: [after]}
"""


def make_project(folder: Path, pipeline: str) -> Path:
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(pipeline)
    (folder / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GENFORGE_UPLOADER": "off"}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "pipelines.retrain", "--jobs", "2", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_what_can_run_runs_and_what_failed_is_told(tmp_path: Path) -> None:
    folder = make_project(tmp_path, PIPELINE)
    flow = start(folder)
    out, err = flow.communicate(timeout=120)
    assert flow.returncode == 1, err
    assert (folder / "c").read_text() == "1\n1\n"  # does not need what failed
    assert not (folder / "after").exists()
    assert "error: broken" in err and "no such luck" in err
    assert "not run, since they need what failed: after" in err
    assert "Traceback" not in out + err
    assert not any(
        str(folder) in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    )


@pytest.mark.slow
def test_ending_the_flow_ends_its_stages_and_its_server(tmp_path: Path) -> None:
    folder = make_project(tmp_path, "stages:\n  long: {cmd: 'echo $$ > pid; sleep 600; touch out', outs: [out]}\n")
    flow = start(folder)
    while not (folder / "pid").exists() or not (folder / "pid").read_text().strip():
        assert flow.poll() is None, flow.communicate()[1]
        time.sleep(0.1)
    family = psutil.Process(flow.pid).children(recursive=True)
    family += [psutil.Process(int((folder / "pid").read_text()))]
    flow.send_signal(signal.SIGTERM)
    _, err = flow.communicate(timeout=30)
    assert flow.returncode == 130
    assert "interrupted" in err and "Traceback" not in err
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


@pytest.mark.slow
def test_a_schedule_is_known_to_the_server_for_as_long_as_it_is_served(tmp_path: Path) -> None:
    folder = make_project(tmp_path, PIPELINE)
    flow = start(folder, "--cron", "0 3 * * *")
    try:
        log = folder / ".genforge" / "prefect" / "server.log"
        address = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+/api", log.read_text() if log.exists() else ""))[
            0
        ]
        scheduled = wait_for(lambda: flow_runs(address, "SCHEDULED"))
        starts = [datetime.fromisoformat(run["expected_start_time"].replace("Z", "+00:00")) for run in scheduled]
        assert all((start.hour, start.minute) == (3, 0) for start in starts)
    finally:
        flow.send_signal(signal.SIGTERM)
        _, err = flow.communicate(timeout=40)
    assert "Traceback" not in err
    assert not (folder / "a").exists()  # nothing runs before its time


def flow_runs(address: str, state: str) -> list[dict[str, str]]:
    body = json.dumps({"flow_runs": {"state": {"type": {"any_": [state]}}}}).encode()
    request = urllib.request.Request(
        f"{address}/flow_runs/filter", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return []


def wait_for(look: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    raise TimeoutError(f"nothing within {seconds} s")
