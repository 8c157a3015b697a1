"""Replays a run's log into MLflow, every point exactly once, whoever was killed in between.

The place that a log was sent up to is kept beside it, in `upload.json`, and moves on behind every call that MLflow has
answered. Whoever is killed, or left without an answer, between a call and its note makes that call again. So every call
must be one that can be made twice without a trace:

- points: MLflow's database knows a point by run, key, step, millisecond and value, and keeps one of each. The
  milliseconds are the log's, so a point that is sent again is the same point.
- parameters, tags, the data set and the end are set to the value that they have; pictures and files have names that
  hang on the log alone, and are written over themselves.
- a new run is the exception: MLflow would make another one. So it carries the log's id as a tag and is looked for by
  it, before it is made, after, and once more at its end, when a slow server has done what it was asked long ago; of
  several the one that was told something stays. One that comes later still is found by `Replay.strays`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from genforge.processes import Identity
from genforge.tracking import mlflow_store
from genforge.tracking.run_log import Event, RunLog, reap, run_folders, runs_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

POINTS = 1000  # MLflow's limit for one batch
FEWEST_POINTS = 10  # in a batch for a store that answered no larger one in time
THUMBNAIL = 256  # pixels: the longer side of the small copy that the UI shows first
# MLflow's errors that say no, rather than that it is away.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")


class Unsendable(Exception):
    """A file that an event names is lost or damaged: trying again later is of no use."""


@dataclass
class Place:
    """How far one log has been sent to one store."""

    store: str  # digest of the store's URI, which may hold a password
    mlflow_run: str = ""
    offset: int = 0  # bytes of the log that are in the store
    ended: bool = False

    @classmethod
    def read(cls, log: RunLog, store: str) -> Place:
        """The place as last written; the beginning when it was lost or was of another store and not complete."""
        try:
            place = cls(**json.loads((log.folder / "upload.json").read_text("utf-8")))
        except (FileNotFoundError, ValueError, TypeError):  # never written, or torn by a power cut
            return cls(store)
        return place if place.store == store or place.is_complete(log) else cls(store)

    def write(self, log: RunLog) -> None:
        # Not synced to the disk: a place that a power cut took costs calls that are made again, not points.
        aside = log.folder / ".upload.json.tmp"
        aside.write_text(json.dumps(asdict(self)), "utf-8")
        aside.replace(log.folder / "upload.json")

    def is_complete(self, log: RunLog) -> bool:
        return self.ended and self.offset >= log.size()


@dataclass(frozen=True)
class Stray:
    """A run that MLflow holds as RUNNING although its log says otherwise.

    log: id of its log. status: what it should be; None: it is a second run of that log, which should not be.
    """

    mlflow_run: str
    log: str
    status: str | None
    end_time: int | None = None


class Replay:
    """Sends logs of the project in `root` to its store. Hold the uploader's lock while sending.

    Args:
        on_progress: called behind every call that MLflow has answered.
    """

    def __init__(self, root: Path, on_progress: Callable[[], None] = lambda: None) -> None:
        self.root = root
        self._on_progress = on_progress
        self.uri = mlflow_store.store_uri(root)
        self.store = hashlib.blake2b(self.uri.encode(), digest_size=8).hexdigest()
        self._client: MlflowClient | None = None
        self._complete: dict[str, int] = {}  # size of logs that are known to be sent wholly
        self._failures: dict[str, int] = {}  # tries that came to nothing since the log's place last moved
        self._timeouts: dict[str, int] = {}  # calls that took too long, since a log was last sent wholly
        self._refused: list[str] = []

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            self._client = mlflow_store.connect(self.root)
        return self._client

    def pending(self) -> list[RunLog]:
        """Logs that hold something that was not sent. First come those that fail least, then parents."""
        logs = []
        for log in self._unsent():
            place = Place.read(log, self.store)
            if place.is_complete(log):
                self._complete[log.id] = log.size()
            elif place.offset < log.size():
                logs.append(log)
        return sorted(logs, key=lambda log: (self._failures.get(log.id, 0), log.start().values["parent"] is not None))

    def open_runs(self) -> list[RunLog]:
        """Runs of this machine that have not ended, after those were ended whose process has."""
        unsent = self._unsent()
        reap(self.root, unsent)
        return [log for log in unsent if log.status() is None and log.process().is_here()]

    def _unsent(self) -> list[RunLog]:
        """Logs that are not known to be sent wholly, but for those that nobody can read."""
        unknown = [log for log in run_folders(self.root) if log.id not in self._complete or self._grew(log)]
        return [log for log in unknown if log.is_readable()]

    def _grew(self, log: RunLog) -> bool:
        try:
            return self._complete[log.id] != log.size()
        except FileNotFoundError:
            return False  # forgotten meanwhile

    def send(self, log: RunLog) -> list[str]:
        """Send all that is new in `log`. Returns what MLflow refused for good, which is passed over.

        Raises whatever MLflow raises when it is away; the place is then behind the last call that it answered.
        """
        place, self._refused = Place.read(log, self.store), []
        began = place.offset
        try:
            self._send_from(log, place)
        except Exception as error:
            if place.offset > began:
                self._failures.pop(log.id, None)
            else:
                self._failures[log.id] = self._failures.get(log.id, 0) + 1
            if "timed out" in str(error):  # MLflow's client leaves no more of the cause than its words
                self._timeouts[log.id] = self._timeouts.get(log.id, 0) + 1
            raise
        self._failures.pop(log.id, None)
        self._timeouts.pop(log.id, None)
        return self._refused

    def _send_from(self, log: RunLog, place: Place) -> None:
        if not place.mlflow_run:
            self._begin(log, place)
        if place.ended and not place.mlflow_run:
            return  # somebody put the run into the bin
        points = max(FEWEST_POINTS, POINTS >> self._timeouts.get(log.id, 0))
        for batch in _batches(log, place.offset, points):
            try:
                self._send_batch(log, place, batch)
            except Exception as error:
                if not is_refusal(error) and not isinstance(error, Unsendable):
                    raise
                match self._stage_of(place.mlflow_run):
                    case "deleted":  # a run that is in the bin stays there
                        self._give_up(log, place)
                        return
                    case None:  # the store was emptied: the log is what is true, so it is told from its beginning
                        place.mlflow_run, place.offset, place.ended = "", 0, False
                        place.write(log)
                        raise
                    case _:
                        self._send_one_by_one(log, place, batch)
            place.offset = batch[-1].end
            place.write(log)
            self._on_progress()

    def _give_up(self, log: RunLog, place: Place) -> None:
        place.ended, place.offset = True, log.size()
        place.write(log)

    def _stage_of(self, run: str) -> str | None:
        """`active`, `deleted`, or None when MLflow, which answers, knows no such run."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run).info.lifecycle_stage)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _begin(self, log: RunLog, place: Place) -> None:
        """Find the log's run in MLflow, or create it."""
        start = log.start()
        experiment = mlflow_store.experiment(self.client, self.root, start.values["experiment"])
        active, deleted = self._runs_of(log, experiment)
        if not active and deleted:
            self._give_up(log, place)
            return
        if not active:
            tags = {"genforge.run": log.id, "mlflow.source.name": "genforge", "mlflow.source.type": "LOCAL"}
            tags["genforge.log"] = self._place_of(log.id)
            parent = start.values["parent"]
            above = None if parent is None else RunLog(runs_folder(self.root) / parent)
            if above is not None and above.is_readable() and (run := self._run_of(above)):
                tags["mlflow.parentRunId"] = run
            name = " ".join(word for word in (start.values["kind"], start.values["name"]) if word)
            self.client.create_run(experiment, start_time=start.time, tags=tags, run_name=name)
            # MLflow's client makes a call again that got no answer, and may have made two runs.
            active, _ = self._runs_of(log, experiment)
        place.mlflow_run = active[0].info.run_id
        place.write(log)
        self._delete_doubles(active, place)

    def _delete_doubles(self, active: list[Run], place: Place) -> None:
        for run in active:
            if run.info.run_id != place.mlflow_run:
                self.client.delete_run(run.info.run_id)

    def _runs_of(self, log: RunLog, experiment: str) -> tuple[list[Run], list[Run]]:
        """MLflow's runs of a log: active ones, that which was told something first, and deleted ones."""
        from mlflow.entities import ViewType

        answer = self.client.search_runs([experiment], f"tags.`genforge.run` = '{log.id}'", ViewType.ALL)
        found = sorted(answer, key=lambda run: ("genforge.kind" not in run.data.tags, run.info.run_id))
        active = [run for run in found if run.info.lifecycle_stage == "active"]
        return active, [run for run in found if run.info.lifecycle_stage != "active"]

    def _place_of(self, identity: str) -> str:
        """Where a log lies, for people and for `strays`."""
        return f"{Identity.own().host}:{runs_folder(self.root.resolve()) / identity}"

    def _run_of(self, log: RunLog) -> str:
        """The MLflow run of a log, created when it is not there yet; empty when it was deleted."""
        place = Place.read(log, self.store)
        if not place.mlflow_run or place.store != self.store:
            place = Place(self.store)
            self._begin(log, place)
        return place.mlflow_run

    def _send_batch(self, log: RunLog, place: Place, batch: list[Event]) -> None:
        run, event = place.mlflow_run, batch[0]
        match event.kind:
            case "metrics":
                self._send_points(run, batch)
            case "start":
                self._send_start(run, event)
            case "tags":
                self._send_tags(run, event.values["values"])
            case "image":
                self._send_image(log, run, event)
            case "artifact":
                self._send_artifact(log, run, event)
            case "end":
                if event.values["reason"]:
                    self._send_tags(run, {"genforge.reason": event.values["reason"]})
                self.client.set_terminated(run, event.values["status"], event.time)
                experiment = self.client.get_run(run).info.experiment_id
                self._delete_doubles(self._runs_of(log, experiment)[0], place)
                place.ended = True

    def _send_one_by_one(self, log: RunLog, place: Place, batch: list[Event]) -> None:
        """Send a batch that was refused, but for the events that are why; a tag says so."""
        for event in batch:
            try:
                self._send_batch(log, place, [event])
            except Exception as error:
                if not is_refusal(error) and not isinstance(error, Unsendable):
                    raise
                text = f"{event.kind} at byte {event.end} of {log.id}: {getattr(error, 'message', error)}"
                self._refused.append(mlflow_store.without_password(self.root, text))
                self._send_tags(place.mlflow_run, {"genforge.refused": self._refused[-1]})
                place.ended = place.ended or event.kind == "end"

    def _send_points(self, run: str, batch: list[Event]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, float(value), event.time, event.values["step"])
            for event in batch
            for key, value in event.values["values"].items()
        ]
        for start in range(0, len(points), POINTS):
            self.client.log_batch(run, metrics=points[start : start + POINTS])

    def _send_start(self, run: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        parameters = [Param(key, value[:6000]) for key, value in event.values["parameters"].items()]
        for start in range(0, len(parameters), 100):  # MLflow's limit for one batch
            self.client.log_batch(run, params=parameters[start : start + 100])
        dataset = event.values["dataset"]
        if dataset is not None:
            source = json.dumps({"uri": dataset["source"]})
            entity = Dataset(dataset["name"], dataset["digest"][:36], source_type="local", source=source)
            tags = [InputTag("mlflow.data.context", "training")]
            self.client.log_inputs(run, datasets=[DatasetInput(entity, tags)])
        self._send_tags(run, event.values["tags"])

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
        aside = log.folder / ".sending"
        shutil.rmtree(aside, ignore_errors=True)  # of an uploader that was killed here
        aside.mkdir()
        full, small = aside / f"{stem}.png", aside / f"{stem}+compressed.webp"
        source = log.folder / "images" / event.values["file"]
        try:
            picture = Image.open(source)
            picture.load()
        except (OSError, SyntaxError) as error:  # what PIL raises for a file that is missing, torn or no PNG
            raise Unsendable(f"{source}: {error}") from error
        with picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            picture.save(small)
        shutil.copyfile(source, full)
        for path in (full, small):
            self.client.log_artifact(run, str(path), "images")
        shutil.rmtree(aside)
        self.client.set_tag(run, "mlflow.loggedImages", "True")

    def _send_artifact(self, log: RunLog, run: str, event: Event) -> None:
        path, folder = log.folder / "artifacts" / event.values["file"], event.values["folder"]
        if path.is_dir():
            self.client.log_artifacts(run, str(path), event.values["file"])
        elif path.is_file():
            self.client.log_artifact(run, str(path), folder or None)
        else:
            raise Unsendable(f"{path} is not there any more")

    def strays(self) -> list[Stray]:
        """Runs that MLflow holds as RUNNING, and that nobody will ever end.

        These are second runs of one log; runs whose end a store that was restored has forgotten; and runs of this very
        folder whose logs were removed. Runs of other projects and machines are none of ours.
        """
        strays, token = [], None
        experiments = {log.start().values["experiment"] for log in run_folders(self.root) if log.is_readable()}
        found = [self.client.get_experiment_by_name(name) for name in sorted(experiments)]
        ids = [experiment.experiment_id for experiment in found if experiment is not None]
        while ids and token != "":
            page = self.client.search_runs(ids, "attributes.status = 'RUNNING'", page_token=token)
            strays += [stray for run in page if (stray := self._stray(run)) is not None]
            token = page.token or ""
        return strays

    def _stray(self, run: Run) -> Stray | None:
        identity = run.data.tags.get("genforge.run", "")
        log = RunLog(runs_folder(self.root) / identity)
        if not identity:
            return None
        if not log.is_readable():
            is_ours = run.data.tags.get("genforge.log") == self._place_of(identity) and not log.folder.exists()
            return Stray(run.info.run_id, identity, "KILLED") if is_ours else None
        place = Place.read(log, self.store)
        if place.mlflow_run not in ("", run.info.run_id) and place.store == self.store:
            return Stray(run.info.run_id, identity, None)
        status = log.status()
        if place.mlflow_run and status is not None and place.is_complete(log):
            *_, end = log.read()
            return Stray(run.info.run_id, identity, status, end.time)
        return None

    def settle(self, stray: Stray) -> None:
        """End a stray, or put it into MLflow's bin."""
        if stray.status is None:
            self.client.delete_run(stray.mlflow_run)
        else:
            self.client.set_terminated(stray.mlflow_run, stray.status, stray.end_time)


def is_refusal(error: Exception) -> bool:
    """True when the store answered, and said no."""
    return getattr(error, "error_code", None) in _REFUSALS


def _batches(log: RunLog, start: int, points: int) -> Iterator[list[Event]]:
    """Events from the place `start`: at most so many points together, and everything else by itself."""
    batch: list[Event] = []
    waiting = 0
    for event in chain(log.read(start), [None]):
        more = len(event.values["values"]) if event is not None and event.kind == "metrics" else 0
        if batch and (event is None or event.kind != "metrics" or waiting + more > points):
            yield batch
            batch, waiting = [], 0
        if event is None:
            return
        if event.kind == "metrics":
            batch.append(event)
            waiting += more
        else:
            yield [event]
