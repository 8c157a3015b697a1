"""A search's database: PostgreSQL, or SQLite on one machine.

It may go away for a while, as when its server is killed and started again: every call waits for it, within bounds, and
then does what it was asked. What a call did before its answer was lost, it may do twice: Optuna's own rules make that
harmless for all but the two cases that are treated here and in `tickets.py` (a trial made twice).
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from genforge.search.patience import Patience, in_turn

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


class Database:
    """An open one. storage: for Optuna."""

    def __init__(self, address: str, patience: Patience) -> None:
        """Raises ValueError for a kind of database that is not supported; else what its driver raises."""
        url = sqlalchemy.make_url(address)
        self._patience = patience
        self._engine: sqlalchemy.Engine | None = None
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
            self.storage = patience.call(lambda: DatabaseStorage(text, patience, engine_kwargs={**options, **pool}))
        if self._engine is None:
            _take_turns(self.storage.engine)

    @contextlib.contextmanager
    def alone(self, seconds: float = math.inf) -> Iterator[None]:
        """As `Store.alone`."""
        if self._engine is None:
            with in_turn(self._lock_file, seconds):
                yield
            return
        engine, give_up = self._engine, time.monotonic() + seconds
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

        connection = self._patience.call(lock)
        try:
            yield
        finally:
            connection.invalidate()  # closes it, and the server gives the lock to the next one
            connection.close()


def has_trials(address: str) -> bool:
    """Whether Optuna has made its tables there. Raises what SQLAlchemy raises."""
    url = sqlalchemy.make_url(address)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return False
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    return sqlalchemy.inspect(engine).has_table("trials")


def _take_turns(engine: sqlalchemy.Engine) -> None:
    """SQLite knows no row locks: every transaction begins as a writing one, or two workers could claim one trial."""
    engine.dispose()

    @sqlalchemy.event.listens_for(engine, "connect")
    def _no_begin_of_its_own(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
