"""A PostgreSQL server as a plain process, for one machine: its data stay, and it ends with whoever started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genforge.settings import UserError

SECONDS_TO_END = 20.0
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


class PostgreSQL:
    """The server on the data in `folder`, at a port of 127.0.0.1, with one user and a password.

    Raises:
        UserError: no PostgreSQL is installed here, or psycopg2 is missing.
    """

    def __init__(self, folder: Path, port: int, user: str, password: str) -> None:
        self.folder, self.port, self.user, self._password = folder.absolute(), port, user, password
        self._binaries = binaries()

    def environment(self) -> dict[str, str]:
        """What libpq and asyncpg read: clients name a database alone, such as `postgresql+psycopg2:///mlflow`."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": self.user, "PGPASSWORD": self._password}

    def prepare(self) -> None:
        """Make the data folder, where there is none yet: whole or not at all."""
        data = self.folder / "data"
        if (data / "PG_VERSION").is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        aside, secret = self.folder / "data.new", self.folder / "password"
        shutil.rmtree(aside, ignore_errors=True)  # of one that was killed here
        owner = _server_user()
        try:
            secret.touch(mode=0o600)
            secret.write_text(self._password)
            if owner is not None:
                for path in (self.folder, secret):
                    shutil.chown(path, owner)
            command = [
                str(self._binaries / "initdb"),
                "-D",
                str(aside),
                "--username",
                self.user,
                "--auth",
                "scram-sha-256",
            ]
            command += ["--pwfile", str(secret), "--encoding", "UTF8", "--no-locale", "--no-instructions"]
            made = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **_as(owner))
        finally:
            secret.unlink(missing_ok=True)
        if made.returncode:
            hint = "" if owner is None else f" (as root it runs as {owner}, who has to reach that folder)"
            raise UserError(f"PostgreSQL cannot make its data in {data}{hint}: {made.stderr.strip()}")
        aside.rename(data)

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start it. The kernel ends it when the thread that called this ends (on Linux)."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "100"}
        command = [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us to hear: it is ended last
                preexec_fn=_end_with_parent,  # noqa: PLW1509  it takes no lock
                **_as(_server_user()),
            )

    def answers(self) -> bool:
        import psycopg2

        try:
            psycopg2.connect(dbname="postgres", connect_timeout=5, **self._login()).close()
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                raise UserError(
                    f"the PostgreSQL at port {self.port} takes another password than the one in {self.folder.parent}; "
                    f"it was made with that one: bring it back, or remove {self.folder} with all that it holds"
                ) from None
            return False
        return True

    def make_databases(self, names: Iterable[str]) -> None:
        """Make those that are not there yet."""
        import psycopg2

        connection = psycopg2.connect(dbname="postgres", **self._login())
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            known = {row[0] for row in cursor.fetchall()}
            for name in sorted(set(names) - known):
                cursor.execute(f'CREATE DATABASE "{name}"')

    def _login(self) -> dict[str, str]:
        return {"host": "127.0.0.1", "port": str(self.port), "user": self.user, "password": self._password}


def end(process: subprocess.Popen[bytes]) -> None:
    """PostgreSQL's fast shutdown, which waits for no client; after some seconds the immediate one, from which it
    recovers at its next start."""
    for number, patience in ((signal.SIGINT, SECONDS_TO_END), (signal.SIGQUIT, 5.0), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def binaries() -> Path:
    """The folder of initdb and postgres, the newest version's."""
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        raise UserError("psycopg2 is missing: pip install 'genforge[postgres]'") from None
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    for folder in [*([Path(on_path).resolve().parent] if on_path else []), *debian]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise UserError("no PostgreSQL is installed here: `apt install postgresql` (its programs are enough)")


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then it gets a user who can reach nothing else of ours."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(line.startswith("postgres:") for line in Path("/etc/passwd").open()) else "nobody"


def _as(user: str | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "extra_groups": []}


def _end_with_parent() -> None:
    if _prctl is not None:
        set_parent_death_signal = 1
        _prctl(set_parent_death_signal, signal.SIGINT)
