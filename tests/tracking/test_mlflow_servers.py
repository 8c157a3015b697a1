"""Real MLflow servers that are away, slow, lying or killed: training never waits, and everything arrives once."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from genforge.tracking import mlflow_store
from genforge.tracking import runs as tracking
from genforge.tracking.replay import Replay
from genforge.tracking.run_log import RunLog, all_runs, runs_folder
from tests.tracking.servers import BadNetwork, Server, running
from tests.tracking.stories import check_whole, curves, stored, stored_curves, tell
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(new_store.read_bytes())
    with running(folder) as server:
        yield server


TRAINING = """
import json, os, sys, time
from pathlib import Path
from genforge.tracking import runs as tracking

os.environ.pop("GENFORGE_UPLOADER")
seconds = []
with tracking.run(Path(), "train", "gan", {"a": {"b": 1}}, {"family": "gan"}) as run:
    while not Path("enough").exists():
        began = time.perf_counter()
        run.metrics(len(seconds), {"loss": 1.0})
        seconds.append(time.perf_counter() - began)
        if len(seconds) == 100:
            print("going", flush=True)
        time.sleep(0.001)
print(json.dumps(seconds))
"""


def uploaders(root: Path) -> list[psutil.Process]:
    """Uploaders of the project that run now."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "genforge.tracking.uploader" in words and str(root.resolve()) in words:
            found.append(process)
    return found


def all_gone(root: Path) -> None:
    """Wait until the project has no uploader. To look through all processes of a machine takes a while."""
    wait_for(lambda: not uploaders(root), pause=0.5)


def test_training_does_not_notice_a_server_that_never_answers(
    tracked: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its uploader stay; the next command, whatever it is, brings everything to the server."""
    with BadNetwork(server, ["hang"]) as network:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", network.url)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        command = [sys.executable, "-c", TRAINING]
        with subprocess.Popen(command, cwd=tracked, stdout=subprocess.PIPE, text=True) as training:
            assert training.stdout is not None
            assert training.stdout.readline() == "going\n"
            wait_for(lambda: network.seen)  # the uploader waits for an answer
            (tracked / "enough").touch()
            said = training.stdout.read()  # ends although the uploader lives: it does not hold the pipe
        assert training.returncode == 0
        assert uploaders(tracked)
        assert statistics.median(json.loads(said)) < 0.02  # 30 microseconds on a quiet machine
        all_gone(tracked)
        network.moods = ["pass"]
        (log,) = all_runs(tracked)
        monkeypatch.delenv("GENFORGE_UPLOADER")
        subprocess.run([sys.executable, "-m", "genforge.cli", "recipes"], cwd=tracked, check=True, capture_output=True)
        all_gone(tracked)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    client = mlflow_store.connect(tracked)
    assert stored_curves(client, log) == curves(log)
    assert stored(client, log).info.status == "FINISHED"


def test_a_network_that_loses_refuses_doubles_and_forgets(
    tracked: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    moods = ["pass"] * 16 + ["slow", "refuse", "lose", "forget", "forget", "twice", "twice", "hang"]
    with BadNetwork(server, moods) as network:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", network.url)
        pipeline = tracking.start_pipeline(tracked)
        monkeypatch.setenv(tracking.PIPELINE_RUN, pipeline)
        logs = [tell(tracked, points=1200) for _ in range(2)]
        tracking.finish_pipeline(tracked, pipeline, "FINISHED")
        for _ in range(5):  # flows that follow one another
            if not tracking.upload_all(tracked, patience=20).left:
                break
        assert {"refuse", "lose", "forget", "twice", "hang"} <= set(network.seen)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    client = mlflow_store.connect(tracked)
    above = stored(client, RunLog(runs_folder(tracked) / pipeline))
    assert above.info.status == "FINISHED"
    for log in logs:
        check_whole(client, log)
        assert stored(client, log).data.tags["mlflow.parentRunId"] == above.info.run_id


def test_a_server_that_is_killed_again_and_again(
    tracked: Path, new_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away for a whole run, killed in the middle of the next one's points, and away at its end."""
    (tracked / "server").mkdir()
    (tracked / "server" / "mlflow.db").write_bytes(new_store.read_bytes())
    server = Server(tracked / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    early = tell(tracked, points=50)
    assert list(tracking.upload_all(tracked, patience=0).left) == [early.id]
    try:
        server.start()
        assert tracking.upload_all(tracked).left == {}
        late = tell(tracked, points=3000)
        uploader = subprocess.Popen([sys.executable, "-m", "genforge.tracking.uploader", str(tracked)], cwd=tracked)
        wait_for(lambda: 0 < offset(late) < late.size())
        server.kill()
        assert uploader.poll() is None
        assert list(tracking.upload_all(tracked, patience=0).left) == [late.id]
        assert 0 < offset(late) < late.size()
        server.start()
        assert tracking.upload_all(tracked, patience=120).left == {}
        uploader.wait(600)
        client = mlflow_store.connect(tracked)
        check_whole(client, early)
        check_whole(client, late)
    finally:
        server.kill()


def offset(log: RunLog) -> int:
    try:
        return int(json.loads((log.folder / "upload.json").read_text())["offset"])
    except FileNotFoundError:
        return 0


def test_a_stage_that_is_killed_with_its_group(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its uploader lives on for seconds, holds nothing of it, says what became of the run, and ends."""
    command = [sys.executable, "-c", TRAINING]
    stage = subprocess.Popen(command, cwd=tracked, stdout=subprocess.PIPE, start_new_session=True)
    assert stage.stdout is not None
    stage.stdout.readline()
    wait_for(lambda: (tracked / "mlruns").exists() or uploaders(tracked))
    (uploader,) = uploaders(tracked)
    assert os.getsid(uploader.pid) == uploader.pid != os.getsid(stage.pid)
    os.killpg(stage.pid, signal.SIGKILL)
    stage.stdout.read()  # to its end: nobody else holds the pipe
    stage.wait()
    assert uploaders(tracked) == [uploader]
    all_gone(tracked)
    (log,) = all_runs(tracked)
    assert log.status() == "KILLED"
    client = mlflow_store.connect(tracked)
    assert stored(client, log).info.status == "KILLED"
    assert stored_curves(client, log) == curves(log)


def test_a_run_whose_uploader_was_killed_too_is_ended_by_the_next_command(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENFORGE_UPLOADER")
    monkeypatch.setenv("GENFORGE_UPLOADER", "")
    stage = subprocess.Popen([sys.executable, "-c", TRAINING], cwd=tracked, stdout=subprocess.PIPE)
    assert stage.stdout is not None
    stage.stdout.readline()
    wait_for(lambda: uploaders(tracked))
    # It stands still while its uploader is looked for, which takes a while: dead, it would be told of by that; at work,
    # it would start another one.
    stage.send_signal(signal.SIGSTOP)
    for uploader in uploaders(tracked):
        uploader.kill()
    stage.kill()
    stage.wait()
    stage.stdout.close()
    (log,) = all_runs(tracked)
    assert log.status() is None
    monkeypatch.setenv("GENFORGE_UPLOADER", "off")
    subprocess.run([sys.executable, "-m", "genforge.cli", "recipes"], cwd=tracked, check=True, capture_output=True)
    assert log.status() == "KILLED"
    tracking.upload_all(tracked)
    assert stored(mlflow_store.connect(tracked), log).info.status == "KILLED"


TOGETHER = """
import os, sys, tempfile, time
from pathlib import Path
from genforge.tracking import mlflow_store, runs as tracking

mlflow_store.quiet()  # imported once, before there are 32 of us
from mlflow import MlflowClient
import mlflow.store.tracking.sqlalchemy_store, mlflow.store.db.utils, mlflow.db

def one(root):
    root.mkdir(exist_ok=True)
    tempfile.tempdir = str(root.resolve())  # where MLflow has a lock: another machine's is another one
    params = root / "params.yaml"
    if not params.exists():
        params.write_text("recipes: {gan: {from: hinge-sngan}}")
    while not Path("go").exists():
        time.sleep(0.01)
    mlflow_store.connect(root)  # at the first try
    with tracking.run(root, "train", experiment="together") as run:
        for step in range(3):
            run.metrics(step, {"loss": step})
    return 0 if tracking.upload_all(root, patience=150).left == {} else 1

pids = []
for root in sys.argv[1:]:
    if (pid := os.fork()) == 0:
        os._exit(one(Path(root)))
    pids.append(pid)
Path("go").touch()
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids))
"""


def start_together(folder: Path, roots: list[str]) -> None:
    """A process for each of the roots: it runs, and sees to it that MLflow has all of it."""
    subprocess.run([sys.executable, "-c", TOGETHER, *roots], cwd=folder, check=True)


def all_complete(client: Any, count: int) -> None:
    found = client.search_runs([client.get_experiment_by_name("together").experiment_id])
    # One that a busy machine holds up for seconds tells of the machine, too.
    own = [{key: value for key, value in run.data.metrics.items() if not key.startswith("system/")} for run in found]
    assert [run.info.status for run in found] == ["FINISHED"] * count
    assert own == [{"loss": 2.0}] * count
    for run in found[:3]:
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 3


def test_32_projects_on_one_new_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    start_together(tmp_path, [str(number) for number in range(32)])
    all_complete(mlflow_store.connect(tmp_path), 32)


def test_32_projects_through_one_server(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    start_together(tmp_path, [str(number) for number in range(32)])
    for number in range(32):  # a server under load makes a run that it was asked for when nobody waits any more
        sender = Replay(tmp_path / str(number))
        for stray in sender.strays():
            sender.settle(stray)
    all_complete(mlflow_store.connect(tmp_path), 32)


def test_32_stages_on_no_store_start_one_uploader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GENFORGE_UPLOADER", "on")
    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom genforge.tracking import runs as tracking\n"
        "first, children = os.getpid(), []\n"
        "for _ in range(5):\n"  # 2 ** 5 processes
        "    children = [*children, child] if (child := os.fork()) else []\n"
        "with tracking.run(Path(), 'train', experiment='together') as run:\n"
        "    [run.metrics(step, {'loss': step}) for step in range(3)]\n"
        "    assert all(os.waitpid(child, 0)[1] == 0 for child in children)\n"
        "    if os.getpid() == first: print('all through', flush=True), sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stages:
        assert stages.stdout is not None and stages.stdin is not None
        assert stages.stdout.readline() == b"all through\n"
        wait_for(lambda: len(uploaders(tmp_path)) == 1)  # it stays while a run is open
        stages.stdin.close()
    assert stages.returncode == 0
    all_gone(tmp_path)
    all_complete(mlflow_store.connect(tmp_path), 32)
    assert (tmp_path / ".genforge" / "uploader.log").read_text() == ""


def test_a_server_too_slow_for_a_large_batch_gets_smaller_ones(
    tracked: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers a batch of more than 300 points too late for us, though it stores them."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    log = tell(tracked, points=1000)
    with BadNetwork(server, ["pass"], too_long=20_000) as network:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", network.url)
        assert tracking.upload_all(tracked, patience=30).left == {}
        assert "late" in network.seen
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    check_whole(mlflow_store.connect(tracked), log)
