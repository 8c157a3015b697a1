"""Where the trials of a search are kept: a journal file on one machine, a database for many.

`GENFORGE_OPTUNA_STORAGE` names the database (`database.py`, which is imported with SQLAlchemy where it is named).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from genforge.search.journal import KernelLock
from genforge.search.patience import STORAGE_VARIABLE as STORAGE_VARIABLE
from genforge.search.patience import Patience, StorageAway, in_turn, kind_of
from genforge.settings import UserError

if TYPE_CHECKING:
    from genforge.search.database import Database

SECONDS_OF_PATIENCE = 600.0  # with a database that is away


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
        self._database: Database | None = None
        address = os.environ.get(STORAGE_VARIABLE)
        if not address:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = folder / "tickets.lock"
            self.storage: BaseStorage = open_journal(folder / "journal.log")
            return
        from genforge.search.database import Database

        try:
            self._database = Database(address, self.patience)
        except Exception as error:
            if wait and isinstance(error, StorageAway):
                raise
            # The URL may hold a password, and so may the driver's own message: neither is repeated.
            raise UserError(
                f"{STORAGE_VARIABLE}: cannot open this storage ({kind_of(error)}); it should be an SQLAlchemy URL of a "
                f"reachable server, such as postgresql+psycopg2://user:password@host/database (sqlite:///file on one "
                f"machine), or unset for a journal"
            ) from error
        self.storage = self._database.storage
        self.patience.seconds = SECONDS_OF_PATIENCE

    @contextlib.contextmanager
    def alone(self, seconds: float = math.inf) -> Iterator[None]:
        """One process at a time, on all machines. The lock is the kernel's or the server's: it dies with its holder.

        A server that is killed gives it up meanwhile, so what is done here must not be wrong when two do it. Nor is it
        after so many seconds, when a holder that was stopped is waited for no longer.
        """
        with in_turn(self._lock_file, seconds) if self._database is None else self._database.alone(seconds):
            yield


def open_existing_database() -> BaseStorage | None:
    """The named database as it is; None when Optuna has made no tables in it.

    Raises:
        UserError: it cannot be opened.
    """
    import sqlalchemy

    from genforge.search.database import has_trials

    try:
        empty = not has_trials(os.environ[STORAGE_VARIABLE])
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UserError(
            f"{STORAGE_VARIABLE}: cannot open this storage ({kind_of(error)}); is its server up?"
        ) from error
    return None if empty else Store(Path()).storage


def open_journal(journal: Path) -> JournalStorage:
    lock = cast(Any, KernelLock(journal))  # Optuna does not export the class of locks
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
