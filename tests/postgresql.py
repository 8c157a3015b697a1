"""A real PostgreSQL server for tests: its own data, its own loopback port, a password, gone when the tests are.

    def test_something(postgresql: PostgreSQL) -> None:
        url = postgresql.database()  # an empty database: postgresql+psycopg2://...

The fixture `postgresql` is one server for all tests of a process (it takes 0.7 s to make). A test that kills the server
takes one of its own: `with running() as server: ... server.kill(); server.start()`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port

USER = "genforge"
SECONDS_TO_START = 60.0
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "16MB",
    "fsync": "off",  # nobody cuts the power: what a killed server has written, the kernel still has
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",  # in its own folder: what a killed server leaves goes with it
}


class PostgreSQL:
    """One server. It can be killed as a crash would, and started again with what it had on the same port."""

    def __init__(self, binaries: Path, folder: Path, password: str) -> None:
        self.port = 0
        self._binaries, self._folder, self._password = binaries, folder, password
        self._names = (f"test_{number}" for number in itertools.count())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the postmaster, the parent of all of the server's processes."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg2://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make an empty database. Returns its URL."""
        import psycopg2

        name = next(self._names)
        connection = psycopg2.connect(self._libpq())
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None, "the server runs already"
        chosen = self.port  # by the first start; clients know it
        for _ in range(3):
            self.port = chosen or free_port()  # which somebody may be faster to take
            self._launch()
            if self._answers():
                return
            self.kill()
        raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL to all of its processes at once: a crash. Nothing of it is left when this returns."""
        if self._process is None:
            return
        # Backends are leaders of sessions of their own: the process group alone would not reach them.
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            while any(_runs(member) for member in family):
                time.sleep(0.01)
        self._process.wait()
        self._process = None

    def _launch(self) -> None:
        options = [word for key, value in _OPTIONS.items() for word in ("-c", f"{key}={value}")]
        command = [self._binaries / "postgres", "-D", self._folder / "data", "-p", str(self.port), *options]
        in_main_thread = threading.current_thread() is threading.main_thread()  # others end before the tests do
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                user=_server_user(),
                extra_groups=[] if os.geteuid() == 0 else None,
                process_group=0,  # Ctrl-C at the tests is not for the server
                preexec_fn=_die_with_parent if in_main_thread else None,  # noqa: PLW1509 - it takes no lock
            )

    def _answers(self) -> bool:
        """Wait for it. False when it has ended, or does not come in time."""
        import psycopg2

        assert self._process is not None
        deadline = time.monotonic() + SECONDS_TO_START
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg2.OperationalError):
                psycopg2.connect(self._libpq()).close()
                return self._process.poll() is None  # else another server has the port
            time.sleep(0.05)
        return False

    def _libpq(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={USER} password={self._password} dbname=postgres"

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"


@contextlib.contextmanager
def running() -> Iterator[PostgreSQL]:
    """A server for the length of the block. Skips the test, with the reason, where there can be none."""
    binaries = _binaries()
    # Not a folder of pytest's: those are closed to the server's user.
    folder = Path(tempfile.mkdtemp(prefix="genforge-postgresql-"))
    password = secrets.token_hex(8)
    server = PostgreSQL(binaries, folder, password)
    try:
        (folder / "password").write_text(password)
        user = _server_user()
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        _make_data(binaries, folder, user)
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with running() as server:
        yield server


def _make_data(binaries: Path, folder: Path, user: str | None) -> None:
    command = [binaries / "initdb", "-D", folder / "data", "--username", USER, "--auth", "scram-sha-256"]
    command += ["--pwfile", folder / "password", "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
    groups = [] if user else None
    made = subprocess.run(command, cwd=folder, user=user, extra_groups=groups, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"initdb fails:\n{made.stderr}")


def _binaries() -> Path:
    """The folder of initdb and postgres, the newest version's; skips where something is missing."""
    try:
        import psycopg2  # noqa: F401
    except ImportError:
        pytest.skip("needs psycopg2: `pip install genforge[postgres]`")
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    candidates = [*([Path(on_path).resolve().parent] if on_path else []), *debian]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("no PostgreSQL server is installed here: `apt install postgresql` (its binaries are enough)")


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(line.startswith("postgres:") for line in Path("/etc/passwd").open()) else "nobody"


def _runs(process: psutil.Process) -> bool:
    """Orphans that have ended can stay in the table until init looks at them; they hold nothing any more."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


_prctl = getattr(ctypes.CDLL(None), "prctl", None)


def _die_with_parent() -> None:
    """When the tests themselves are killed, the kernel ends the server (Linux alone can)."""
    if _prctl is not None:
        set_parent_death_signal = 1
        _prctl(set_parent_death_signal, signal.SIGKILL)
