"""The flow on a real Prefect server: stages side by side, failures told, nothing run twice, nothing left behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from genforge.processes import words_of
from genforge.steps.workplaces import lock_of
from pipelines.killed_runs import crash_left, watch_heartbeats
from pipelines.server import api
from pipelines.stages import Processes
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
Give = Callable[[Path], Path]
RUNNING = {"type": "RUNNING", "name": "Running"}
LONG = "stages:\n  long: {cmd: 'echo $$ > pid; test -e short || sleep 600; touch out', outs: [out]}\n"
AFTER_LONG = """
  a: {cmd: "sleep 1; echo 1 > a", deps: [out], outs: [a]}
  b: {cmd: "echo 1 > b", deps: [out], outs: [b]}
  c: {cmd: "cat a b > c", deps: [a, b], outs: [c]}
  broken: {cmd: "echo no such luck; false", deps: [b], outs: [broken]}
  after: {cmd: "touch after", deps: [broken], outs: [after]}
"""


def make_project(folder: Path, pipeline: str) -> Path:
    (folder / "dvc.yaml").write_text(pipeline)
    (folder / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    return folder


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "GENFORGE_UPLOADER": "off"}
    environment.pop("PREFECT_API_URL", None)
    environment |= variables
    command = [sys.executable, "-m", "pipelines.retrain", "--jobs", "2", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def family_of(flow: int, folder: Path) -> list[psutil.Process]:
    """All that a flow has started, once its long stage is at work."""
    wait_for(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip())
    stage = psutil.Process(int((folder / "pid").read_text()))
    family = psutil.Process(flow).children(recursive=True)
    assert stage in family
    return family


def server_of(flow: int) -> psutil.Process | None:
    """The flow's temporary server, where it has one now."""
    for process in psutil.Process(flow).children():
        if "server" in words_of(process.pid):
            return process
    return None


@pytest.mark.slow
def test_ending_the_flow_ends_its_stages_and_its_server_which_is_started_again_when_killed(
    blank: Path, history: Give
) -> None:
    folder = make_project(history(blank), LONG)
    flow = start(folder)
    family_of(flow.pid, folder)
    killed = server_of(flow.pid)
    assert killed is not None
    killed.kill()
    wait_for(lambda: (now := server_of(flow.pid)) is not None and now.pid != killed.pid)
    family = family_of(flow.pid, folder)
    assert server_of(flow.pid) in family
    flow.send_signal(signal.SIGTERM)
    _, err = flow.communicate(timeout=4000)
    assert flow.returncode == 130
    assert "interrupted" in err and "Traceback" not in err
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


@pytest.mark.slow
def test_a_second_flow_is_turned_away_a_killed_one_leaves_nothing_and_the_next_runs_what_can_run_and_tells_what_failed(
    blank: Path, history: Give
) -> None:
    folder = make_project(history(blank), LONG + AFTER_LONG)
    flow = start(folder)
    family = family_of(flow.pid, folder)
    assert server_of(flow.pid) in family

    second = start(folder)
    _, err = second.communicate(timeout=4000)
    assert second.returncode == 2 and "Traceback" not in err
    assert "only one process may retrain this project" in err and f"pid {flow.pid} on" in err

    flow.kill()
    flow.communicate()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, [words_of(process.pid) for process in alive]

    (folder / "short").touch()
    flow = start(folder)
    out, err = flow.communicate(timeout=4000)
    assert flow.returncode == 1, err
    assert (folder / "out").exists() and (folder / "c").read_text() == "1\n1\n"  # they do not need what failed
    assert not (folder / "after").exists()
    assert "error: broken" in err and "no such luck" in err
    assert "not run, since they need what failed: after" in err
    assert "Traceback" not in out + err
    assert not any(
        str(folder) in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    )
    with sqlite3.connect(folder / ".genforge" / "prefect" / "prefect.db") as database:
        states = [state for (state,) in database.execute("select state_type from flow_run order by start_time")]
    assert states == ["CRASHED", "FAILED"]


@pytest.mark.slow
def test_on_a_lasting_server_a_closed_terminal_ends_all_that_make_runs_and_a_killed_run_is_told(
    tmp_path: Path, blank: Path, history: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_project(blank, LONG)
    with api(history(tmp_path / "server"), Processes()) as url:
        with temporary_settings({PREFECT_API_URL: url}):
            watch_heartbeats("retrain", within=12)
            watch_heartbeats("retrain", within=12)
            with get_client(sync_client=True) as client:
                assert len(client.read_automations()) == 1
        monkeypatch.setenv("PREFECT_API_URL", url)
        close_the_terminal_of_make(folder)

        # The server learns of a killed run from the heartbeats that do not come any more. Nobody runs it again.
        before = [run["id"] for run in flow_runs(url)]
        flow = start(folder, PREFECT_API_URL=url)
        wait_for((folder / "pid").exists)
        (run,) = [run for run in flow_runs(url) if run["id"] not in before]
        assert run["state_type"] == "RUNNING"
        flow.kill()
        flow.communicate()
        crashed = wait_for(lambda: [each for each in flow_runs(url, "CRASHED") if each["id"] == run["id"]], pause=0.5)
        assert "no heartbeat" in crashed[0]["state"]["message"]
        see_that_what_is_left_beside_a_workplace_is_marked(tmp_path / "workplaces", url)


def close_the_terminal_of_make(folder: Path) -> None:
    """Once its flow is at work: of all that make has started nothing is left."""
    (folder / "Makefile").write_text(f"run:\n\t@{sys.executable} -m pipelines.retrain --jobs 2\n")
    shell, screen = pty.fork()
    if shell == 0:
        os.chdir(folder)
        os.environ.update(PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(ROOT)]), GENFORGE_UPLOADER="off")
        os.execvp("bash", ["bash", "--norc", "-i"])
    os.write(screen, b"make run 2> log\n")
    family: list[psutil.Process] = []
    try:
        family = family_of(shell, folder)
        assert any(process.name() == "make" for process in family)
    finally:
        os.close(screen)
        os.kill(shell, signal.SIGKILL)
        os.waitpid(shell, 0)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, [words_of(process.pid) for process in alive]
    (folder / "pid").unlink()


def see_that_what_is_left_beside_a_workplace_is_marked(home: Path, url: str) -> None:
    """At once, and not the run that still works."""
    flow = ask(f"{url}/flows/", {"name": "retrain-apart"})["id"]
    killed, at_work = (ask(f"{url}/flow_runs/", {"flow_id": flow, "state": RUNNING})["id"] for _ in range(2))
    home.mkdir()
    (home / "1.run").write_text(killed)
    (home / "2.run").write_text(at_work)
    held = lock_of(home / "2")
    assert held.acquire()
    with temporary_settings({PREFECT_API_URL: url}):
        crash_left(home)
    held.release()
    assert {at_work, killed} & {run["id"] for run in flow_runs(url, "RUNNING")} == {at_work}
    assert "was killed" in next(run for run in flow_runs(url, "CRASHED") if run["id"] == killed)["state"]["message"]
    assert [path.name for path in home.glob("*.run")] == ["2.run"]


def flow_runs(address: str, *states: str) -> list[dict[str, Any]]:
    """Runs in one of these states, or in any."""
    wanted = {"flow_runs": {"state": {"type": {"any_": states}}}} if states else {}
    try:
        found: list[dict[str, Any]] = ask(f"{address}/flow_runs/filter", wanted)
    except OSError:
        return []
    return found


def ask(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
