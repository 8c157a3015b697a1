"""Replays a run's log into MLflow, every point exactly once, whoever was killed in between.

The place that a log was sent up to is kept beside it, in `upload.json`. Before a batch leaves, the place behind it is
written down as `sending`; when a place says `sending`, nobody knows whether that batch arrived, and MLflow is asked
which of its points it has. Everything else that is sent (parameters, tags, pictures, files, the end) can be sent twice
without a trace.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genforge.tracking import mlflow_store
from genforge.tracking.run_log import Event, RunLog, all_runs, reap, runs_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

POINTS = 1000  # MLflow's limit for one batch
FILES = 20  # pictures or artifacts in one batch: after a kill so many at most are sent again
THUMBNAIL = 256  # pixels: the longer side of the small copy that the UI shows first
# MLflow's errors that say no, rather than that it is away.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")


@dataclass
class Place:
    """How far one log has been sent to one store."""

    store: str  # digest of the store's URI, which may hold a password
    mlflow_run: str = ""
    offset: int = 0  # bytes of the log that are in the store for certain
    sending: int = 0  # bytes of the log that may be in the store
    ended: bool = False

    @classmethod
    def read(cls, log: RunLog, store: str) -> Place:
        """The place as last written; the beginning when it was lost or was of another store and not complete."""
        try:
            place = cls(**json.loads((log.folder / "upload.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # never written, or torn by a power cut
            return cls(store)
        return place if place.store == store or place.is_complete(log) else cls(store)

    def write(self, log: RunLog) -> None:
        # Not synced to the disk: a place that a power cut took costs questions to MLflow, not points.
        aside = log.folder / ".upload.json.tmp"
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(log.folder / "upload.json")

    def is_complete(self, log: RunLog) -> bool:
        return self.ended and self.offset >= log.size()


class Replay:
    """Sends logs of the project in `root` to its store. Hold the lock while using one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = mlflow_store.store_uri(root)
        self.store = hashlib.blake2b(self.uri.encode(), digest_size=8).hexdigest()
        self._client: MlflowClient | None = None
        self._complete: dict[str, int] = {}  # size of logs that are known to be sent wholly

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            self._client = mlflow_store.connect(self.root)
        return self._client

    def pending(self) -> list[RunLog]:
        """Logs that hold something that was not sent, parents before their children."""
        logs = []
        for log in all_runs(self.root):
            if self._complete.get(log.id) == log.size():
                continue
            place = Place.read(log, self.store)
            if place.is_complete(log):
                self._complete[log.id] = log.size()
            elif place.offset < log.size():
                logs.append(log)
        return sorted(logs, key=lambda log: log.start().values["parent"] is not None)

    def open_runs(self) -> list[RunLog]:
        """Runs of this machine that have not ended, after those were ended whose process has."""
        unsent = [log for log in all_runs(self.root) if log.id not in self._complete]
        reap(self.root, unsent)
        return [log for log in unsent if log.status() is None and log.process().is_here()]

    def send(self, log: RunLog) -> None:
        """Send all that is new in `log`. Raises whatever MLflow raises; then the place is that of the last batch."""
        place = Place.read(log, self.store)
        if not place.mlflow_run:
            self._begin(log, place)
        try:
            for batch in _batches(log, place.offset):
                in_doubt = batch[0].end <= place.sending
                place.sending = max(place.sending, batch[-1].end)
                place.write(log)
                self._send_batch(log, place, batch, in_doubt)
                place.offset = batch[-1].end
                place.write(log)
        except Exception as error:
            if not self._was_removed(place.mlflow_run, error):
                raise
            # Somebody deleted the run, or the whole database: a run that is in the bin stays there.
            place.ended, place.offset, place.sending = True, log.size(), log.size()
            place.write(log)

    def _begin(self, log: RunLog, place: Place) -> None:
        """Find the log's run in MLflow, or create it. Found means that its place was lost: then all is in doubt."""
        start = log.start()
        experiment = mlflow_store.experiment(self.client, self.root, start.values["experiment"])
        found = self.client.search_runs([experiment], f"tags.`genforge.run` = '{log.id}'", max_results=1)
        if found:
            place.mlflow_run, place.sending = found[0].info.run_id, log.size()
        else:
            tags = {"genforge.run": log.id, "mlflow.source.name": "genforge", "mlflow.source.type": "LOCAL"}
            parent = start.values["parent"]
            if parent is not None and (above := RunLog(runs_folder(self.root) / parent)).folder.is_dir():
                tags["mlflow.parentRunId"] = self._run_of(above)
            name = " ".join(word for word in (start.values["kind"], start.values["name"]) if word)
            run = self.client.create_run(experiment, start_time=start.time, tags=tags, run_name=name)
            place.mlflow_run = run.info.run_id
        place.write(log)

    def _run_of(self, log: RunLog) -> str:
        """The MLflow run of a log, created when it is not there yet."""
        place = Place.read(log, self.store)
        if not place.mlflow_run or place.store != self.store:
            place = Place(self.store)
            self._begin(log, place)
        return place.mlflow_run

    def _send_batch(self, log: RunLog, place: Place, batch: list[Event], in_doubt: bool) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, float(value), event.time, event.values["step"])
            for event in batch
            if event.kind == "metrics"
            for key, value in event.values["values"].items()
        ]
        if in_doubt:
            points = self._missing(place.mlflow_run, points)
        for start in range(0, len(points), POINTS):
            self.client.log_batch(place.mlflow_run, metrics=points[start : start + POINTS])
        for event in batch:
            match event.kind:
                case "start":
                    self._send_start(place.mlflow_run, event)
                case "tags":
                    self._send_tags(place.mlflow_run, event.values["values"])
                case "image":
                    self._send_image(log, place.mlflow_run, event)
                case "artifact":
                    self._send_artifact(log, place.mlflow_run, event)
                case "end":
                    if event.values["reason"]:
                        self._send_tags(place.mlflow_run, {"genforge.reason": event.values["reason"]})
                    self.client.set_terminated(place.mlflow_run, event.values["status"], event.time)
                    place.ended = True

    def _missing(self, run: str, points: list[Any]) -> list[Any]:
        """Those of the points that the run does not have: a point is known by its key, step and millisecond."""
        have = {
            (key, point.step, point.timestamp)
            for key in {point.key for point in points}
            for point in self.client.get_metric_history(run, key)
        }
        return [point for point in points if (point.key, point.step, point.timestamp) not in have]

    def _send_start(self, run: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        parameters = [Param(key, value[:6000]) for key, value in event.values["parameters"].items()]
        for start in range(0, len(parameters), 100):  # MLflow's limit for one batch
            self.client.log_batch(run, params=parameters[start : start + 100])
        self._send_tags(run, event.values["tags"])
        dataset = event.values["dataset"]
        if dataset is not None:
            source = json.dumps({"uri": dataset["source"]})
            entity = Dataset(dataset["name"], dataset["digest"][:36], source_type="local", source=source)
            tags = [InputTag("mlflow.data.context", "training")]
            self.client.log_inputs(run, datasets=[DatasetInput(entity, tags)])

    def _send_tags(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        items = [RunTag(key, value[:8000]) for key, value in tags.items()]
        for start in range(0, len(items), 100):
            self.client.log_batch(run, tags=items[start : start + 100])

    def _send_image(self, log: RunLog, run: str, event: Event) -> None:
        """What `MlflowClient.log_image` does, but under a name that is the same whenever the picture is sent."""
        from PIL import Image

        key, step = event.values["key"].replace("/", "~"), event.values["step"]
        unique = uuid.uuid5(uuid.NAMESPACE_URL, f"{log.id}/{event.values['file']}")
        stem = f"{key}+step+{step}+timestamp+{event.time}+{unique}"
        with tempfile.TemporaryDirectory() as folder:
            full, small = Path(folder, f"{stem}.png"), Path(folder, f"{stem}+compressed.webp")
            shutil.copyfile(log.folder / "images" / event.values["file"], full)
            with Image.open(full) as picture:
                picture.thumbnail((THUMBNAIL, THUMBNAIL))
                picture.save(small)
            for path in (full, small):
                self.client.log_artifact(run, str(path), "images")
        self.client.set_tag(run, "mlflow.loggedImages", "True")

    def _send_artifact(self, log: RunLog, run: str, event: Event) -> None:
        path, folder = log.folder / "artifacts" / event.values["file"], event.values["folder"]
        if path.is_dir():
            self.client.log_artifacts(run, str(path), event.values["file"])
        else:
            self.client.log_artifact(run, str(path), folder or None)

    def _was_removed(self, run: str, error: Exception) -> bool:
        """True when `error` came because somebody deleted the run."""
        from mlflow.exceptions import MlflowException

        if not is_refusal(error):
            return False
        try:
            return self.client.get_run(run).info.lifecycle_stage == "deleted"
        except MlflowException as missing:
            return getattr(missing, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def is_refusal(error: Exception) -> bool:
    """True when the store answered, and said no."""
    return getattr(error, "error_code", None) in _REFUSALS


def _batches(log: RunLog, start: int) -> Iterator[list[Event]]:
    """Events from the place `start` in batches of at most `POINTS` points and `FILES` files."""
    batch: list[Event] = []
    points = files = 0
    for event in chain(log.read(start), [None]):
        more = len(event.values["values"]) if event is not None and event.kind == "metrics" else 0
        if batch and (event is None or points + more > POINTS or files >= FILES):
            yield batch
            batch, points, files = [], 0, 0
        if event is not None:
            batch.append(event)
            points += more
            files += event.kind in ("image", "artifact")
