"""What a run tells, and what MLflow must hold of it afterwards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from genforge.processes import Identity
from genforge.tracking import runs as tracking
from genforge.tracking.run_log import RunLog, new_id, runs_folder


def started(root: Path, name: str = "gan", process: Identity | None = None, **more: object) -> RunLog:
    """A new run of the process `process`, or of this one."""
    start = {
        "kind": "train",
        "name": name,
        "experiment": "digits",
        "parameters": {},
        "tags": {},
        "parent": None,
        "dataset": None,
        "process": (process or Identity.own()).to_json(),
        **more,
    }
    return RunLog.create(runs_folder(root), new_id("train", name), start)


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
    """MLflow has one run of the log, and in it all that `tell` told, once."""
    run = stored(client, log)
    assert stored_curves(client, log) == curves(log)
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert len(images) == 2  # the picture and its thumbnail
    assert [item.path for item in client.list_artifacts(run.info.run_id, "settings")] == ["settings/params.yaml"]
    assert run.data.params == {"a.b": "1"}
    assert run.data.tags["genforge.family"] == "gan"
    assert run.info.status == "FINISHED"
