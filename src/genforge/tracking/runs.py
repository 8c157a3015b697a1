"""What a run tells: metrics, pictures and files, into its own log on disk.

MLflow is fed from the logs by the uploader, a process of its own (`uploader.py`). So a run never imports MLflow, never
waits for it and does not notice when it is away.

    with tracking.run(project.root, kind="train", name="gan", parameters={...}) as run:
        run.metrics(step, {"loss": 0.7})
        run.image("samples", step, grid)

Runs are nested: a pipeline run is the parent of its stages' runs. Which pipeline run a stage belongs to is said by the
flow that started it (`GENFORGE_PIPELINE_RUN`), or found from the `dvc` process that did. `GENFORGE_UPLOADER=off` keeps
the uploader from being started; `upload_all` sends everything at any time later.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from filelock import FileLock, Timeout

from genforge import config
from genforge.files import digest_bytes, read_json
from genforge.pictures import png_bytes
from genforge.processes import Identity, nearest_dvc
from genforge.progress import say
from genforge.settings import UserError
from genforge.tracking.run_log import PIPELINE, RunLog, Status, flat, new_id, runs_folder
from genforge.tracking.run_log import reap as reap  # part of what this room offers
from genforge.tracking.system_metrics import watched

NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description
PIPELINE_RUN = "GENFORGE_PIPELINE_RUN"  # environment: id of the pipeline run that this process works for
UPLOADER = "GENFORGE_UPLOADER"  # environment: `off` starts none
SECONDS_BETWEEN_LOOKS = 30.0  # at whether an uploader is there
STARTING = "uploader.starting"  # a file that stands from an uploader's start until it holds the lock
SECONDS_TO_START = 15.0  # when it does not by then, it died, and another is started
MAX_TOLD = 2**20  # bytes of what uploaders have to say, before the file is begun anew


class Run:
    """One run that is going on. Its methods cost microseconds (a picture: milliseconds) and wait for nobody.

    A full disk stops none of them either, but `artifact`: see `run_log.py`. `finish` raises UserError when the disk has
    not taken all by then.
    """

    def __init__(self, root: Path, log: RunLog) -> None:
        self._root, self._log = root, log
        self._looked = 0.0
        self._finished = False

    @property
    def id(self) -> str:
        """Name of the run's folder under `.genforge/runs`, and the value of its tag `genforge.run` in MLflow."""
        return self._log.id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves. Letters that MLflow refuses in names, such as `@`, become `_`."""
        self._log.metrics(step, values)
        self._keep_uploading()

    def image(self, key: str, step: int, image: np.ndarray) -> None:
        """A picture of one step, uint8 (height, width, channels), 1 or 3 channels: a grid of samples, a figure."""
        self._log.image(key, step, png_bytes(image))

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file, or a folder with all that is in it, under `folder` among the run's artifacts. It is copied now."""
        self._log.artifact(path, folder)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Tags, under `genforge.` unless their names have a dot."""
        self._log.tags(_tag_names(values))

    def note(self, text: str) -> None:
        """What stands at the top of the run's page in MLflow: Markdown, tables included. A later one replaces it."""
        self.tags({NOTE: text})

    def finish(self, outcome: str = "", status: Status = "FINISHED", reason: str = "") -> None:
        """End the run now, rather than when its block ends.

        Args:
            outcome: kept as the tag `genforge.outcome`, such as `pruned` for a trial that was stopped early.
        """
        if self._finished:
            return
        self._finished = True
        if outcome:
            self.tags({"outcome": outcome})
        self._log.end(status, reason)

    def _keep_uploading(self) -> None:
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            start_uploader(self._root)


@contextlib.contextmanager
def run(
    root: Path,
    kind: str,
    name: str = "",
    parameters: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    parent: str | None = None,
    experiment: str | None = None,
) -> Iterator[Run]:
    """A run that lasts as long as the block.

    It ends FINISHED with the block, FAILED with an exception, KILLED with an interrupt (Ctrl-C, or a signal that was
    turned into an exception that is no `Exception`). One whose process is killed is ended as KILLED by its uploader, or
    by the next command in the project.

    Args:
        root: the project's folder.
        kind: what is done, such as `train`; the tag `genforge.kind`.
        name: of what it is done to, such as the recipe's.
        parameters: settings; nested mappings become dotted keys. They cannot change later.
        tags: under `genforge.` unless their names have a dot. Commit and data digest are added.
        parent: id of the run that this one is part of; None: the pipeline run, where there is one.
        experiment: None: the data set's name in params.yaml.
    """
    experiment = experiment or config.load(root / "params.yaml").data.name
    parent = parent or _pipeline_of(root, experiment)
    digest = data_digest(root)
    start = {
        "kind": kind,
        "name": name,
        "experiment": experiment,
        "parameters": flat(parameters or {}),
        "tags": _tag_names({"kind": kind, "name": name, "data": digest or "", **git_tags(root), **(tags or {})}),
        "parent": parent,
        "dataset": {"name": experiment, "digest": digest, "source": "data/prepared"} if digest else None,
        "process": Identity.own().to_json(),
    }
    current = Run(root, RunLog.create(runs_folder(root), new_id(kind, name), start))
    current._keep_uploading()
    try:
        with watched(current.metrics):
            yield current
    except BaseException as error:
        status, reason = _ending(error)
        try:
            current.finish(status=status, reason=reason)
        except UserError as full:  # why the run ended says more, and is often the same full disk
            error.add_note(str(full))
        raise
    current.finish()


def start_pipeline(root: Path, name: str = "retrain", tags: Mapping[str, Any] | None = None, owner: int = 0) -> str:
    """Begin a pipeline run and return its id; put it into the environment of its stages as `GENFORGE_PIPELINE_RUN`.

    Args:
        owner: id of the process whose end is the run's end if nobody calls `finish_pipeline`; 0: this one.
    """
    process = Identity.of(owner) if owner else Identity.own()
    identity = new_id("pipeline", name)
    experiment = config.load(root / "params.yaml").data.name
    _create_pipeline(root, identity, name, experiment, process or Identity.own(), tags)
    start_uploader(root)
    return identity


def finish_pipeline(root: Path, identity: str, status: Status, reason: str = "") -> None:
    """End the pipeline run `identity`. A second end changes nothing."""
    log = RunLog(runs_folder(root) / identity)
    if log.folder.is_dir() and log.status() is None:
        log.end(status, reason)


def pipeline(root: Path) -> Run | None:
    """The pipeline run that this process works for, to add to; None when it was started by hand."""
    identity = _pipeline_of(root, config.load(root / "params.yaml").data.name)
    return None if identity is None else Run(root, RunLog(runs_folder(root) / identity))


def going_on(root: Path, identity: str) -> Run | None:
    """The run `identity` of another process here, to add to; None when it has ended, or is not of this project."""
    log = RunLog(runs_folder(root) / identity)
    return Run(root, log) if log.folder.is_dir() and log.status() is None else None


@dataclass(frozen=True)
class Uploaded:
    """What `upload_all` came to: `left` names what could not be sent, and why, by run id."""

    runs: int
    left: dict[str, str]


def upload_all(root: Path, patience: float = 30.0) -> Uploaded:
    """Send everything that the logs hold now to MLflow, and wait for it.

    Args:
        patience: seconds to wait for a store that does not answer. What is left stays on disk and is sent by the next
            uploader or the next call.
    """
    from genforge.tracking.uploader import drain

    return Uploaded(*drain(root, patience))


def start_uploader(root: Path) -> None:
    """Start the uploader unless one is at work. It ends by itself when there is nothing left to wait for."""
    if os.environ.get(UPLOADER, "").lower() == "off":
        return
    lock, told = root / ".genforge" / "uploader.lock", root / ".genforge" / "uploader.log"
    on_its_way = root / ".genforge" / STARTING
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock).acquire(blocking=False):  # nobody holds it, so there is no uploader
            if on_its_way.exists() and time.time() - on_its_way.stat().st_mtime < SECONDS_TO_START:
                return
            on_its_way.touch()
        if told.exists() and told.stat().st_size > MAX_TOLD:
            told.replace(told.with_suffix(".log.old"))
        with told.open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-P", "-m", "genforge.tracking.uploader", str(root.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=root,
                start_new_session=True,  # it outlives a killed run by seconds, to say that the run was killed
            )
    except Timeout:
        return
    except OSError as error:
        say(f"the uploader could not be started ({error}); the run's log is kept and sent to MLflow later")


def look_after(root: Path) -> None:
    """End the runs that were left by the dead, and see to it that what the logs hold gets to MLflow.

    Every command does this first: so a run whose process was killed, and its uploader with it, does not stay RUNNING.
    It costs next to nothing where there is nothing to do, and a failure of it stops no command.
    """
    if not runs_folder(root).is_dir():
        return
    try:
        reap(root)
        if _has_unsent(root):
            start_uploader(root)
    except (OSError, UserError) as error:
        say(f"warning: the logs under {runs_folder(root)} could not be looked after: {error}")


def _has_unsent(root: Path) -> bool:
    from genforge.tracking.replay import Replay

    return bool(Replay(root).pending())


def server_with_a_ui(root: Path) -> str | None:
    """The tracking server that the project sends its runs to, which has pages of its own; None for a database."""
    from genforge.tracking.mlflow_store import is_server, store_name, store_uri

    return store_name(root) if is_server(store_uri(root)) else None


def ui_command(root: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """What shows the runs of a project that has a database in MLflow's pages, on this machine: a module with its
    arguments, and what it wants in its environment."""
    from genforge.tracking.mlflow_store import artifacts_folder, connect, store_uri

    connect(root)  # makes a new database now, rather than under several of the server's processes
    words = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--default-artifact-root", str(artifacts_folder(root))]
    return words, {
        "MLFLOW_BACKEND_STORE_URI": store_uri(root),  # no word of the command: it may hold a password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else eight more processes are started
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def places_to_look(root: Path) -> dict[str, str]:
    """Where in MLflow's pages to look first, by what is seen there: the project's runs, and how the newest evaluations
    of all recipes compare, settings beside scores. Without the last word they open as a place for chats."""
    from genforge.tracking.mlflow_store import connect

    client = connect(root)
    found = client.get_experiment_by_name(config.load(root / "params.yaml").data.name)
    if found is None:
        return {"no runs yet": "/#/experiments?workflowType=machine_learning"}
    places = {"runs": f"/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"}
    judged = client.search_runs(
        [found.experiment_id], "tags.`genforge.kind` = 'evaluate'", order_by=["attributes.start_time DESC"]
    )
    newest: dict[str, str] = {}
    for run in judged:
        newest.setdefault(run.data.tags.get("genforge.name", ""), run.info.run_id)
    newest.pop("floor", None)  # real images have no settings
    if len(newest) > 1:
        runs, experiments = quote(json.dumps(sorted(newest.values()))), quote(json.dumps([found.experiment_id]))
        places["how models compare"] = (
            f"/#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"
        )
    return places


def git_tags(root: Path) -> dict[str, str]:
    """The commit that the project stands at and whether files differ from it; empty outside of a git repository."""
    try:
        command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = answer.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), "(initial)")
    dirty = any(not line.startswith("#") for line in lines)
    if commit == "(initial)":
        return {}
    return {"commit": commit, "dirty": str(dirty).lower(), "mlflow.source.git.commit": commit}


def data_digest(root: Path) -> str | None:
    """Digest of the prepared data's contents, or None before it is prepared."""
    card = root / "data" / "prepared" / "card.json"
    return str(read_json(card)["digest"]) if card.is_file() else None


def _tag_names(values: Mapping[str, Any]) -> dict[str, str]:
    return {key if "." in key else f"genforge.{key}": str(value) for key, value in values.items() if value != ""}


def _pipeline_of(root: Path, experiment: str) -> str | None:
    """Id of the pipeline run that this process works for; its log is there when this returns."""
    said = os.environ.get(PIPELINE_RUN)
    if said:
        if not (runs_folder(root) / said).is_dir():
            owner = Identity.of(os.getppid()) or Identity.own()
            _create_pipeline(root, said, said, experiment, owner, None)
        return said
    dvc = nearest_dvc()
    if dvc is None:
        return None
    # The same for every stage of this `dvc`, and for no other machine that shares the store.
    stamp, machine = time.strftime("%Y%m%dT%H%M%S", time.gmtime(dvc.started)), digest_bytes(dvc.host.encode())[:6]
    identity = f"{stamp}-pipeline-dvc-{dvc.pid}-{machine}"
    if not (runs_folder(root) / identity).is_dir():
        _create_pipeline(root, identity, "dvc", experiment, dvc, None)
    return identity


def _create_pipeline(
    root: Path, identity: str, name: str, experiment: str, process: Identity, tags: Mapping[str, Any] | None
) -> None:
    start = {
        "kind": PIPELINE,
        "name": name,
        "experiment": experiment,
        "parameters": {},
        "tags": _tag_names({"kind": PIPELINE, "name": name, **git_tags(root), **(tags or {})}),
        "parent": None,
        "dataset": None,
        "process": process.to_json(),
    }
    RunLog.create(runs_folder(root), identity, start)


def _ending(error: BaseException) -> tuple[Status, str]:
    """How a run that an exception left has ended."""
    if isinstance(error, SystemExit) and not error.code:
        return "FINISHED", ""
    reason = "".join(traceback.format_exception_only(error)).strip()
    return ("FAILED" if isinstance(error, Exception) else "KILLED"), reason
