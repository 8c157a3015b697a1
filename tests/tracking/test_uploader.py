"""MLflow gets every point of a log exactly once, whoever is killed or away in between."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genforge.tracking import mlflow_store, replay
from genforge.tracking import runs as tracking
from genforge.tracking.run_log import RunLog, runs_folder


def tell(root: Path, points: int = 5, name: str = "gan") -> RunLog:
    """A finished run with some of everything."""
    with tracking.run(root, "train", name, {"a": {"b": 1}}, {"family": "gan"}) as run:
        run.image("samples/ema", 3, np.full((16, 24, 1), 9, np.uint8))
        for step in range(points):
            run.metrics(step, {"loss": 1 / (step + 1), "fid@5": math.nan if step == 1 else step})
        run.artifact(root / "params.yaml", "settings")
    return RunLog(runs_folder(root) / run.id)


def curves(log: RunLog) -> dict[str, list[tuple[int, int, str]]]:
    """What the log holds: key to (step, time, value), sorted."""
    result: dict[str, list[tuple[int, int, str]]] = {}
    for event in log.read():
        for key, value in event.values["values"].items() if event.kind == "metrics" else ():
            result.setdefault(key, []).append((event.values["step"], event.time, str(float(value))))
    return {key: sorted(points) for key, points in result.items()}


def stored(client: Any, log: RunLog) -> Any:
    """The one MLflow run of the log."""
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`genforge.run` = '{log.id}'")
    return run


def stored_curves(client: Any, log: RunLog) -> dict[str, list[tuple[int, int, str]]]:
    """What MLflow holds of the log, in the form of `curves`."""
    run = stored(client, log)
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return {key: sorted((p.step, p.timestamp, str(p.value)) for p in points) for key, points in histories.items()}


def check_whole(client: Any, log: RunLog) -> None:
    run = stored(client, log)
    assert stored_curves(client, log) == curves(log)
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert len(images) == 2  # the picture and its thumbnail
    assert [item.path for item in client.list_artifacts(run.info.run_id, "settings")] == ["settings/params.yaml"]
    assert run.data.params == {"a.b": "1"}
    assert run.data.tags["genforge.family"] == "gan"
    assert run.info.status == "FINISHED"


def test_mlflow_has_all_that_the_log_tells(tracked: Path) -> None:
    (tracked / "data" / "prepared").mkdir(parents=True)
    (tracked / "data" / "prepared" / "card.json").write_text(json.dumps({"digest": "d" * 32}))
    log = tell(tracked)
    assert tracking.upload_all(tracked) == tracking.Uploaded(1, {})
    client = mlflow_store.connect(tracked)
    check_whole(client, log)
    run = stored(client, log)
    *_, end = log.read()
    assert (run.info.start_time, run.info.end_time) == (log.start().time, end.time)
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "d" * 32)
    assert tracking.upload_all(tracked) == tracking.Uploaded(0, {})


def test_pictures_are_named_as_mlflow_names_them(tracked: Path) -> None:
    """Its UI finds pictures by key and step through their names; `log_image` is the reference."""
    import re

    log = tell(tracked)
    tracking.upload_all(tracked)
    client = mlflow_store.connect(tracked)
    other = client.create_run(mlflow_store.experiment(client, tracked, "digits")).info.run_id
    picture = np.full((16, 24, 1), 9, np.uint8)
    client.log_image(other, picture, key="samples/ema", step=3, timestamp=1, synchronous=True)
    run = stored(client, log)

    def shapes(run_id: str) -> list[str]:
        names = [item.path for item in client.list_artifacts(run_id, "images")]
        return sorted(
            re.sub(r"[0-9a-f-]{36}", "UUID", re.sub(r"timestamp\+\d+", "timestamp+T", name)) for name in names
        )

    assert shapes(run.info.run_id) == shapes(other)
    assert run.data.tags["mlflow.loggedImages"] == client.get_run(other).data.tags["mlflow.loggedImages"]


def test_children_stand_below_their_parents(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = RunLog(runs_folder(tracked) / tracking.start_pipeline(tracked))
    monkeypatch.setenv(tracking.PIPELINE_RUN, pipeline.id)
    log = tell(tracked)
    tracking.upload_all(tracked)
    client = mlflow_store.connect(tracked)
    above = stored(client, pipeline)
    assert stored(client, log).data.tags["mlflow.parentRunId"] == above.info.run_id
    assert above.info.status == "RUNNING"
    tracking.finish_pipeline(tracked, pipeline.id, "FINISHED")
    tracking.upload_all(tracked)
    assert stored(client, pipeline).info.status == "FINISHED"


def test_more_points_than_a_batch_holds(tracked: Path) -> None:
    log = tell(tracked, points=replay.POINTS + 7)
    tracking.upload_all(tracked)
    assert stored_curves(mlflow_store.connect(tracked), log) == curves(log)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Deadly:
    """A client whose process is killed at its `at`-th call, just before or just after MLflow has done it."""

    def __init__(self, client: Any, at: int, after: bool) -> None:
        self._client, self._left, self._after = client, at, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            result = method(*arguments, **keywords)
            if self._left == 0:
                raise Killed
            return result

        return call


@pytest.mark.parametrize("after", [False, True])
def test_exactly_once_wherever_the_uploader_is_killed(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr(replay, "POINTS", 6)  # so that there are several batches to die in
    client, at, was_killed = mlflow_store.connect(tracked), 0, True
    while was_killed:
        at += 1
        log = tell(tracked)
        sender = replay.Replay(tracked)
        sender._client = Deadly(client, at, after)  # type: ignore[assignment]
        try:
            sender.send(log)
            was_killed = False
        except Killed:
            if at == 5:
                (log.folder / "upload.json").write_text('{"store": "torn by a pow')
            replay.Replay(tracked).send(log)
        check_whole(client, log)
    assert at > 10


def test_a_run_that_was_deleted_stays_deleted_and_stops_nobody(tracked: Path) -> None:
    with tracking.run(tracked, "train") as run:
        run.metrics(1, {"loss": 1.0})
        tracking.upload_all(tracked)
        client = mlflow_store.connect(tracked)
        client.delete_run(stored(client, RunLog(runs_folder(tracked) / run.id)).info.run_id)
        run.metrics(2, {"loss": 2.0})
    other = tell(tracked)
    assert tracking.upload_all(tracked).left == {}
    check_whole(client, other)


def test_a_killed_run_is_killed_in_mlflow_too(tracked: Path) -> None:
    code = (
        "from pathlib import Path; from genforge.tracking.runs import run\nwith run(Path(), 'train'): print(1); input()"
    )
    command = [sys.executable, "-uc", code]
    with subprocess.Popen(command, cwd=tracked, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    tracking.upload_all(tracked)
    client = mlflow_store.connect(tracked)
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.status == "KILLED"


def test_a_store_that_is_away_costs_patience_and_no_points(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log = tell(tracked)
    began = time.monotonic()
    left = tracking.upload_all(tracked, patience=0.5).left
    assert time.monotonic() - began < 10
    assert list(left) == [log.id]
    assert "refused" in left[log.id]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the user goes back to the store of the project
    assert tracking.upload_all(tracked).left == {}
    check_whole(mlflow_store.connect(tracked), log)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_uploader(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "genforge.tracking.uploader", str(root)], cwd=root)


@pytest.mark.slow
def test_exactly_once_when_really_killed(tracked: Path) -> None:
    log = tell(tracked, points=12_000)
    offset = 0
    for _ in range(3):
        process = start_uploader(tracked)
        while process.poll() is None and _offset(log) <= offset:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        offset = _offset(log)
    assert 0 < offset < log.size()
    assert tracking.upload_all(tracked).left == {}
    check_whole(mlflow_store.connect(tracked), log)


def _offset(log: RunLog) -> int:
    try:
        return json.loads((log.folder / "upload.json").read_text())["offset"]
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_the_uploader_comes_by_itself_and_goes_by_itself(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setenv("GENFORGE_UPLOADER", "on")
    before = {child.pid for child in psutil.Process().children()}
    log = tell(tracked)
    (child,) = [child for child in psutil.Process().children() if child.pid not in before]
    while not (tracked / "mlruns").exists():
        time.sleep(0.05)
    tell(tracked)
    assert [c.pid for c in psutil.Process().children() if c.pid not in before] == [child.pid]  # one serves both runs
    gone, _ = psutil.wait_procs([child], timeout=25)
    assert gone
    assert (tracked / ".genforge" / "uploader.log").read_text() == ""
    check_whole(mlflow_store.connect(tracked), log)


@pytest.mark.slow
def test_processes_that_start_together_on_no_store(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from genforge.tracking import runs as tracking\n"
        "with tracking.run(Path(), 'train') as run: run.metrics(1, {'loss': 1.0})\n"
        "assert tracking.upload_all(Path(), patience=120).left == {}"
    )
    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    client = mlflow_store.connect(tmp_path)
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert [(run.info.status, run.data.metrics) for run in runs] == [("FINISHED", {"loss": 1.0})] * 8


@contextlib.contextmanager
def server(root: Path, port: int) -> Iterator[None]:
    """A real MLflow server with a store of its own."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root / 'mlflow.db'}",
        "--artifacts-destination",
        str(root / "files"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (root / "server.log").read_text()
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_that_is_away_for_the_run_gets_all_of_it_afterwards(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    early = tell(tracked, points=1500)
    assert list(tracking.upload_all(tracked, patience=0).left) == [early.id]
    with server(tracked, port):
        with tracking.run(tracked, "train", "gan", {"a": {"b": 1}}, {"family": "gan"}) as run:
            run.image("samples/ema", 3, np.full((16, 24, 1), 9, np.uint8))
            run.metrics(1, {"loss": 1.0})
            assert tracking.upload_all(tracked).left == {}
            run.metrics(2, {"loss": 2.0})
            run.artifact(tracked / "params.yaml", "settings")
    late = RunLog(runs_folder(tracked) / run.id)
    assert list(tracking.upload_all(tracked, patience=0).left) == [late.id]  # killed in the middle of that run
    with server(tracked, port):
        assert tracking.upload_all(tracked).left == {}
        client = mlflow_store.connect(tracked)
        check_whole(client, early)
        check_whole(client, late)
