"""The one door to MLflow: which store, made once, without noise.

Importing MLflow takes two seconds, so it is imported here only inside functions. The store is what
`MLFLOW_TRACKING_URI` names; without it, the SQLite database `mlflow.db` in the project's folder with artifacts in
`mlruns` beside it, as a plain `mlflow ui` started there expects.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from genforge.environment import within
from genforge.quick_start import without_collecting
from genforge.settings import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.entities import PagedList

DATABASE, ARTIFACTS = "mlflow.db", "mlruns"
# Else the UI may show traces of chats, not runs. That of 3.17 goes by the address alone (`workflowType`), see runs.py.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
_SQLITE = "sqlite:///"
# How long MLflow's client waits for a server: its own seven tries take minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
SECONDS_TO_CONNECT = 10  # to a database


class StoreAway(UserError, ConnectionError):
    """MLflow does not answer. Another try later may pass."""


def store_uri(root: Path) -> str:
    """The store of the project in `root`, absolute where it is a file, so that it means the same from every folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{DATABASE}"
    if uri.startswith(_SQLITE) and not uri.startswith(f"{_SQLITE}/") and uri != _SQLITE:
        return f"{_SQLITE}{root.resolve() / uri.removeprefix(_SQLITE)}"
    return uri


def is_server(uri: str) -> bool:
    """True for a tracking server; it keeps artifacts where it likes."""
    return uri.startswith(("http://", "https://"))


def is_there(root: Path) -> bool:
    """False where the store would be a database that nobody has made yet. Nothing is made or asked."""
    uri = store_uri(root)
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).is_file()


def quiet() -> None:
    """Import MLflow so that it reports nothing, prints no links and no bars, and logs warnings at most."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # of models: ours hold no pickle
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a uv project around us says nothing about the model
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    with without_collecting():
        import mlflow  # noqa: F401  its import sets its loggers up, which is undone below

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def connect(root: Path) -> MlflowClient:
    """A client of the project's store. A new database is made first, by one process, whole or not at all."""
    quiet()
    from mlflow import MlflowClient
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    uri = store_uri(root)
    try:
        if not is_server(uri):
            with FileLock(_lock(root, uri)):  # processes that start together on an empty database crash in migrations
                _make_database(uri)
        _use_everywhere(uri)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except UnsupportedModelRegistryStoreURIException:
        raise UserError(
            f"MLFLOW_TRACKING_URI is {store_name(root)!r}, which is no store of MLflow's; it should be http(s)://, "
            f"sqlite:///, postgresql:// or mysql://"
        ) from None


@contextlib.contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """Within the block a call that a server does not answer is given up after so many seconds and not made again, so
    that it is made again where it is known what to make again. What the user set in the environment stays."""
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(min(seconds, 30)))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    with within({name: limits[name] for name in limits if os.environ.get(name) in (None, PATIENCE[name])}):
        yield


def _lock(root: Path, uri: str) -> Path:
    """Beside a SQLite database, which several projects may share."""
    database = _file_of(uri)
    lock = root / ".genforge" / "mlflow.lock" if database is None else database.with_name(f"{database.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    return lock


def _file_of(uri: str) -> Path | None:
    """The file of a SQLite database; None for another store."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def _use_everywhere(uri: str) -> None:
    """Some of MLflow's own calls look at the process's store and not at the client's. The environment stays as it is:
    what a user set there decides, for this project and for others."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def experiment(client: MlflowClient, root: Path, name: str) -> str:
    """Id of the experiment `name`, made or brought back from the bin when needed. What kind it is, is said once."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        place = None if is_server(store_uri(root)) else (artifacts_folder(root) / name).as_uri()
        try:
            return client.create_experiment(name, artifact_location=place, tags=EXPERIMENT_KIND)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process made it meanwhile
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in EXPERIMENT_KIND.items():
        if key not in found.tags:  # what somebody chose in the UI stays
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def pages(search: Callable[..., PagedList[Any]]) -> Iterator[Any]:
    """Everything that one of MLflow's searches finds, page by page."""
    page = search()
    yield from page
    while page.token:
        page = search(page_token=page.token)
        yield from page


def _make_database(uri: str) -> None:
    """Bring an empty database to MLflow's schema.

    SQLite: under another name, then renamed, since migrations that were killed in the middle leave a database that
    nothing can use.
    """
    path = _file_of(uri)
    if path is None:
        _make_on_server(uri)
        return
    if path.exists() and path.stat().st_size > 0:
        return
    for rest in half_made(path):
        rest.unlink()  # of a process that was killed here: we hold the lock, so nobody else is at it
    aside = path.with_name(f".{path.name}.{os.getpid()}-{time.time_ns()}.tmp")
    aside.parent.mkdir(parents=True, exist_ok=True)
    _migrate(f"{_SQLITE}{aside}")
    aside.replace(path)


def database_file(root: Path) -> Path | None:
    """The SQLite database of the project in `root`; None where it has another store."""
    return _file_of(store_uri(root))


def artifacts_folder(root: Path) -> Path:
    """Where artifacts lie when no server keeps them: beside a SQLite database, which several folders may share."""
    database = database_file(root)
    return (root.resolve() if database is None else database.parent) / ARTIFACTS


def half_made(database: Path) -> Iterator[Path]:
    """What processes that were killed while they made it have left beside it."""
    return database.parent.glob(f".{database.name}.*.tmp*")


def _make_on_server(uri: str) -> None:
    """The same in a database server, to which several machines may come at once."""
    from mlflow import MlflowClient
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import ArgumentError, OperationalError
    from sqlalchemy.pool import NullPool

    is_postgresql = uri.startswith("postgresql")
    try:
        limits = {"connect_timeout": SECONDS_TO_CONNECT} if is_postgresql else {}
        engine = create_engine(uri, poolclass=NullPool, connect_args=limits)
    except ArgumentError:  # no database: MLflow says what it takes
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        return
    try:
        with engine.connect() as connection:  # MLflow's own tries to reach a database that is away last an hour
            if is_postgresql:
                connection.execute(text("SELECT pg_advisory_lock(hashtext('genforge: MLflow tables'))"))
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except OperationalError as error:
        raise StoreAway(f"the database of MLflow does not answer: {error.orig}") from None


def _migrate(uri: str) -> None:
    """What `mlflow db upgrade` does, without another two seconds of imports."""
    from mlflow.db import upgrade

    assert upgrade.callback is not None
    upgrade.callback(uri)


def without_password(root: Path, text: str) -> str:
    """`text` without the user and password that the store's URI may hold."""
    uri = store_uri(root)
    user, mark, _ = uri.partition("://")[2].rpartition("@")
    return text.replace(user + mark, "") if mark else text


def store_name(root: Path) -> str:
    """The store for people."""
    return without_password(root, store_uri(root))


def reach(root: Path) -> MlflowClient:
    """A client of the project's store, which answers.

    Raises:
        StoreAway: it does not.
        UserError: there is no such kind of store.
    """
    client = connect(root)
    from mlflow.exceptions import MlflowException

    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise _away(error, root) from None
    return client


def as_away(error: BaseException, root: Path) -> StoreAway | None:
    """`error` in our words, where MLflow raised it because its store, which had answered before, does so no longer:
    the connection broke, or the server says that it is unavailable. None for every other error."""
    if "mlflow.exceptions" not in sys.modules:
        return None
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    if not isinstance(error, MlflowException):
        return None
    reason = error.__cause__ or error.__context__
    lost = isinstance(reason, RequestException | OperationalError)
    return _away(error, root) if lost or error.get_http_status_code() == HTTPStatus.SERVICE_UNAVAILABLE else None


def in_words(error: MlflowException, root: Path, what: str, kind: type[UserError] = UserError) -> UserError:
    """What MLflow refused, with its reason and without a password; or that its store has gone, where that is why."""
    return as_away(error, root) or kind(f"{what}: {without_password(root, error.message)}")


def _away(error: MlflowException, root: Path) -> StoreAway:
    return StoreAway(
        f"MLflow at {store_name(root)} does not answer: {without_password(root, error.message)}\n"
        f"Start it, or unset MLFLOW_TRACKING_URI to use {DATABASE} in {root.resolve()}; then run this again"
    )
