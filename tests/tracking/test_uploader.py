"""MLflow gets every point of a log exactly once, whoever is killed or away in between."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genforge.tracking import mlflow_store, replay
from genforge.tracking import runs as tracking
from genforge.tracking.run_log import RunLog, runs_folder
from tests.ports import free_port
from tests.tracking.stories import check_whole, curves, stored, stored_curves, tell


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


def exactly_once(root: Path, client: Any, after: bool, place_is_lost: bool, every: int = 1) -> None:
    """Kill the uploader at one call after another, and see each time that its successor makes the story whole."""
    at, was_killed = 0, True
    while was_killed:
        at += every
        log = tell(root)
        sender = replay.Replay(root)
        sender._client = Deadly(client, at, after)  # type: ignore[assignment]
        try:
            sender.send(log)
            was_killed = False
        except Killed:
            if place_is_lost:
                (log.folder / "upload.json").write_text('{"store": "torn by a pow')
            replay.Replay(root).send(log)
        check_whole(client, log)
    assert at > 10


@pytest.mark.parametrize("place_is_lost", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_exactly_once_wherever_the_uploader_is_killed(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, after: bool, place_is_lost: bool
) -> None:
    monkeypatch.setattr(replay, "POINTS", 6)  # so that there are several batches to die in
    exactly_once(tracked, mlflow_store.connect(tracked), after, place_is_lost, every=2 if place_is_lost else 1)


def test_a_batch_of_which_a_part_has_arrived_is_made_whole(tracked: Path) -> None:
    """MLflow itself keeps one of each point, also of those that are not finite, and takes those that are new."""
    with tracking.run(tracked, "train") as run:
        for step, value in enumerate([0.1, math.nan, math.inf, -math.inf, 1 / 3, 0.0]):
            run.metrics(step, {"loss": value})
        tracking.upload_all(tracked)
        for step in range(6, 12):
            run.metrics(step, {"loss": step})
    log = RunLog(runs_folder(tracked) / run.id)
    (log.folder / "upload.json").unlink()
    assert tracking.upload_all(tracked).left == {}
    told, have = curves(log)["loss"], stored_curves(mlflow_store.connect(tracked), log)["loss"]
    assert [point[:2] for point in have] == [point[:2] for point in told]
    assert len(have) == 12


class Stammering:
    """A client behind a network that brings a call twice, as an HTTP client does that got no answer."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            getattr(self._client, name)(*arguments, **keywords)
            return getattr(self._client, name)(*arguments, **keywords)

        return call


def test_every_call_may_arrive_twice(tracked: Path) -> None:
    log, client, sender = tell(tracked), mlflow_store.connect(tracked), replay.Replay(tracked)
    sender._client = Stammering(client)  # type: ignore[assignment]
    sender.send(log)
    check_whole(client, log)  # of one run: the second is in the bin


def test_a_run_that_the_network_brings_before_the_end_is_deleted(tracked: Path) -> None:
    with tracking.run(tracked, "train") as run:
        run.metrics(0, {"loss": 1})
        tracking.upload_all(tracked)
        client = mlflow_store.connect(tracked)
        experiment = client.get_experiment_by_name("digits").experiment_id
        late = client.create_run(experiment, tags={"genforge.run": run.id}).info.run_id
    tracking.upload_all(tracked)
    assert client.get_run(late).info.lifecycle_stage == "deleted"
    assert stored(client, RunLog(runs_folder(tracked) / run.id)).info.status == "FINISHED"


def test_a_run_that_the_network_brings_late_is_swept_away(tracked: Path) -> None:
    log = tell(tracked)
    tracking.upload_all(tracked)
    client, sender = mlflow_store.connect(tracked), replay.Replay(tracked)
    experiment = client.get_experiment_by_name("digits").experiment_id
    late = client.create_run(experiment, tags={"genforge.run": log.id}).info.run_id
    elsewhere = client.create_run(experiment, tags={"genforge.run": "of-another-project"}).info.run_id
    assert sender.strays() == [replay.Stray(late, log.id, None)]
    sender.settle(sender.strays()[0])
    check_whole(client, log)
    assert client.get_run(elsewhere).info.status == "RUNNING"
    assert sender.strays() == []


def test_a_store_that_was_emptied_is_told_again(tracked: Path, new_store: Path) -> None:
    with tracking.run(tracked, "train", "gan", {"a": {"b": 1}}, {"family": "gan"}) as run:
        run.image("samples/ema", 3, np.full((16, 24, 1), 9, np.uint8))
        run.metrics(1, {"loss": 1.0})
        assert tracking.upload_all(tracked).left == {}
        client = mlflow_store.connect(tracked)
        before = stored(client, RunLog(runs_folder(tracked) / run.id)).info.run_id
        client.delete_run(before)
        client._tracking_client.store._hard_delete_run(before)  # what `mlflow gc` does
        run.metrics(2, {"loss": 2.0})
        run.artifact(tracked / "params.yaml", "settings")
    assert tracking.upload_all(tracked).left == {}
    check_whole(client, RunLog(runs_folder(tracked) / run.id))


def test_what_cannot_be_sent_is_said_and_passed_over(tracked: Path) -> None:
    with tracking.run(tracked, "train") as run:
        run.metrics(1, {"loss": 1.0})
        run.image("samples", 1, np.zeros((8, 8, 1), np.uint8))
        run.metrics(2, {"loss": 2.0})
    log = RunLog(runs_folder(tracked) / run.id)
    (image,) = (log.folder / "images").iterdir()
    image.write_bytes(image.read_bytes()[:40])  # torn by a power cut
    other = tell(tracked)
    assert tracking.upload_all(tracked).left == {}
    client = mlflow_store.connect(tracked)
    assert stored_curves(client, log) == curves(log)
    assert image.name in stored(client, log).data.tags["genforge.refused"]
    assert stored(client, log).info.status == "FINISHED"
    check_whole(client, other)


def test_a_run_that_mlflow_chokes_on_keeps_no_other_from_it(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An internal error looks like a store that is away; the other runs are tried first the next time."""
    poison, good = tell(tracked, name="a-poison"), tell(tracked)
    send = replay.Replay._send_start

    def choke(self: replay.Replay, run: str, event: Any) -> None:
        if event.values["name"] == "a-poison":
            raise RuntimeError("500")
        send(self, run, event)

    monkeypatch.setattr(replay.Replay, "_send_start", choke)
    for _ in range(60):  # on a busy machine a second may be over before the good one is sent
        left = tracking.upload_all(tracked, patience=1).left
        if good.id not in left:
            break
    assert left == {poison.id: "RuntimeError: 500"}
    check_whole(mlflow_store.connect(tracked), good)


def test_an_experiment_says_that_it_holds_models(tracked: Path) -> None:
    """MLflow's UI opens an experiment that does not in a view for chats, when it guesses wrong."""
    tell(tracked)
    client = mlflow_store.connect(tracked)
    old = client.create_experiment("old")
    chosen = client.create_experiment("chosen", tags={"mlflow.experimentKind": "finetuning"})
    assert mlflow_store.experiment(client, tracked, "old") == old
    assert mlflow_store.experiment(client, tracked, "chosen") == chosen
    tracking.upload_all(tracked)
    kinds = [client.get_experiment_by_name(name).tags["mlflow.experimentKind"] for name in ("digits", "old", "chosen")]
    assert kinds == ["custom_model_development", "custom_model_development", "finetuning"]


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
    assert time.monotonic() - began < 60
    assert list(left) == [log.id]
    assert "refused" in left[log.id]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the user goes back to the store of the project
    assert tracking.upload_all(tracked).left == {}
    check_whole(mlflow_store.connect(tracked), log)


def start_uploader(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "genforge.tracking.uploader", str(root)], cwd=root)


@pytest.mark.slow
def test_exactly_once_when_really_killed(tracked: Path) -> None:
    log = tell(tracked, points=3000)  # six batches
    offset = 0
    for _ in range(2):
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
    tracking.start_uploader(tracked)  # one is on its way already
    (child,) = [child for child in psutil.Process().children() if child.pid not in before]
    deadline = time.monotonic() + 600
    while not (tracked / "mlruns").exists():
        assert time.monotonic() < deadline, "the uploader has not begun"
        time.sleep(0.05)
    tell(tracked)
    assert [c.pid for c in psutil.Process().children() if c.pid not in before] == [child.pid]  # one serves both runs
    gone, _ = psutil.wait_procs([child], timeout=120)
    assert gone
    assert (tracked / ".genforge" / "uploader.log").read_text() == ""
    check_whole(mlflow_store.connect(tracked), log)
