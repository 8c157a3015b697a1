"""Where the trials of a search are kept: a journal file on one machine, a database for many.

`GENFORGE_OPTUNA_STORAGE` names the database: PostgreSQL, or SQLite on one machine. A database may go away for a while,
as when its server is killed and started again: every call waits for it, within bounds, and then does what it was asked.
What a call did before its answer was lost, it may do twice: Optuna's own rules make that harmless for all but the two
cases that are treated here and in `tickets.py` (a trial made twice).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from genforge.progress import say
from genforge.search.journal import KernelLock
from genforge.settings import UserError

STORAGE_VARIABLE = "GENFORGE_OPTUNA_STORAGE"
SECONDS_OF_PATIENCE = 600.0  # with a database that is away
SECONDS_BEFORE_A_WORD = 2.0  # two who wait for the same row look like a short absence
SECONDS_BETWEEN_TRIES = 0.05  # for a server's lock
_ADVISORY_LOCK = int.from_bytes(b"genforge", "big")
# Within a minute a connection to a machine that has vanished is given up, on both of its ends; and so is the
# transaction of a process that was stopped in the middle of it, with the rows that it had locked.
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
    "-c idle_in_transaction_session_timeout=60000",
}

T = TypeVar("T")


class StorageAway(UserError):
    """The database did not answer for as long as we are patient. Everything that it had confirmed is there."""


class Patience:
    """Does things again while the database is away.

    seconds: for how long; may be changed at any time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def call(self, operation: Callable[[], T]) -> T:
        """Raises StorageAway when `seconds` were not enough."""
        began, spoke, pause = time.monotonic(), False, 0.05
        while True:
            try:
                answer = operation()
            except Exception as error:
                if not _is_away(error):
                    raise
                waited = time.monotonic() - began
                if waited >= self.seconds:
                    raise StorageAway(
                        f"{STORAGE_VARIABLE}: the database does not answer, for {waited:.0f} s now "
                        f"({_kind(error)}); finished trials are safe there: run again when it is back"
                    ) from error
                if not spoke and waited >= SECONDS_BEFORE_A_WORD:
                    spoke = True
                    say(f"the search's database is away ({_kind(error)}); waiting up to {self.seconds:.0f} s for it")
                time.sleep(pause)
                pause = min(2.0, pause * 2)
            else:
                if spoke:
                    say(f"the search's database is back after {time.monotonic() - began:.0f} s")
                return answer


class DatabaseStorage(RDBStorage):
    """Optuna's storage, with patience in each of its calls."""

    def __init__(self, url: str, patience: Patience, **arguments: Any) -> None:
        super().__init__(url, **arguments)
        self._patience = patience

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            try:
                return super(DatabaseStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                # The first try may have arrived, and only its answer was lost.
                if tries > 1:
                    trial = super(DatabaseStorage, self).get_trial(trial_id)
                    if trial.state == state and trial.values == (None if values is None else list(values)):
                        return True
                raise

        return self._patience.call(once)


def _patient(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(self: DatabaseStorage, *arguments: Any, **named: Any) -> T:
        return self._patience.call(lambda: method(self, *arguments, **named))

    return call


for _name in (
    "create_new_study", "get_all_studies", "get_study_id_from_name", "get_study_name_from_id", "get_study_directions",
    "get_study_user_attrs", "get_study_system_attrs", "set_study_user_attr", "set_study_system_attr",
    "_create_new_trial", "_set_trial_param", "set_trial_intermediate_value", "set_trial_user_attr",
    "set_trial_system_attr", "get_trial", "_get_trials", "get_trial_id_from_study_id_trial_number",
):  # fmt: skip
    setattr(DatabaseStorage, _name, _patient(getattr(RDBStorage, _name)))


class Store:
    """An open storage.

    storage: for Optuna. patience: with a database that is away; a journal needs none.
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        """
        Args:
            folder: of the journal, where no database is named.
            wait: be patient already when opening, as a worker should whose supervisor has opened it before.

        Raises:
            UserError: the database cannot be opened.
        """
        self.patience = Patience(SECONDS_OF_PATIENCE if wait else 0.0)
        url = os.environ.get(STORAGE_VARIABLE)
        self._engine: sqlalchemy.Engine | None = None
        if not url:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = folder / "tickets.lock"
            self.storage: BaseStorage = open_journal(folder / "journal.log")
            return
        try:
            self.storage = self._open_database(sqlalchemy.make_url(url))
        except Exception as error:
            if wait and isinstance(error, StorageAway):
                raise
            # The URL may hold a password, and so may the driver's own message: neither is repeated.
            raise UserError(
                f"{STORAGE_VARIABLE}: cannot open this storage ({_kind(error)}); it should be an SQLAlchemy URL of a "
                f"reachable server, such as postgresql+psycopg2://user:password@host/database (sqlite:///file on one "
                f"machine), or unset for a journal"
            ) from error
        self.patience.seconds = SECONDS_OF_PATIENCE

    @contextlib.contextmanager
    def alone(self, patience: float = math.inf) -> Iterator[None]:
        """One process at a time, on all machines. The lock is the kernel's or the server's: it dies with its holder.

        A server that is killed gives it up meanwhile, so what is done here must not be wrong when two do it. Nor is it
        after `patience` seconds, when a holder that was stopped is waited for no longer.
        """
        if self._engine is None:
            lock_of_file = FileLock(self._lock_file, timeout=-1.0 if math.isinf(patience) else patience)
            with contextlib.ExitStack() as held:
                with contextlib.suppress(Timeout):
                    held.enter_context(lock_of_file)
                yield
            return
        engine, give_up = self._engine, time.monotonic() + patience
        taken = sqlalchemy.select(sqlalchemy.func.pg_try_advisory_xact_lock(_ADVISORY_LOCK))

        def lock() -> sqlalchemy.Connection:
            connection = engine.connect()
            try:
                while not connection.execute(taken).scalar() and time.monotonic() < give_up:
                    time.sleep(SECONDS_BETWEEN_TRIES)
            except BaseException:
                connection.close()
                raise
            return connection

        connection = self.patience.call(lock)
        try:
            yield
        finally:
            connection.invalidate()  # closes it, and the server gives the lock to the next one
            connection.close()

    def _open_database(self, url: sqlalchemy.URL) -> BaseStorage:
        match url.get_backend_name():
            case "postgresql":
                options: dict[str, Any] = {"connect_args": _POSTGRESQL}
                # A connection is checked before each use. One for the work, one for the signs of life.
                pool = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 2}
                self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **options)
            case "sqlite" if url.database:
                options, pool = {"connect_args": {"timeout": 60.0}}, {}
                self._lock_file = Path(f"{url.database}.lock")
            case other:
                raise ValueError(f"{other} is not supported")
        text = url.render_as_string(hide_password=False)
        with self.alone():  # workers that start together on an empty database would make its tables together
            storage = self.patience.call(
                lambda: DatabaseStorage(text, self.patience, engine_kwargs={**options, **pool})
            )
        if url.get_backend_name() == "sqlite":
            _take_turns(storage.engine)
        return storage


def open_existing_database() -> BaseStorage | None:
    """The named database as it is; None when Optuna has made no tables in it.

    Raises:
        UserError: it cannot be opened.
    """
    url = sqlalchemy.make_url(os.environ[STORAGE_VARIABLE])
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    try:
        empty = not sqlalchemy.inspect(engine).has_table("trials")
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UserError(f"{STORAGE_VARIABLE}: cannot open this storage ({_kind(error)}); is its server up?") from error
    return None if empty else Store(Path()).storage


def open_journal(journal: Path) -> JournalStorage:
    lock = cast(Any, KernelLock(journal))  # Optuna does not export the class of locks
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))


def _take_turns(engine: sqlalchemy.Engine) -> None:
    """SQLite knows no row locks: every transaction begins as a writing one, or two workers could claim one trial."""
    engine.dispose()

    @sqlalchemy.event.listens_for(engine, "connect")
    def _no_begin_of_its_own(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_away(error: BaseException) -> bool:
    """Whether this is the database's or the network's failure of a moment, and nothing that we did."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    exceptions = sqlalchemy.exc
    # The last of them: Optuna asks again over a connection that has just broken.
    if isinstance(cause, exceptions.OperationalError | exceptions.InterfaceError | exceptions.PendingRollbackError):
        return True
    return isinstance(cause, exceptions.DBAPIError) and cause.connection_invalidated


def _kind(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return type(cause).__name__
