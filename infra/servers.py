"""`make servers`: what infra/compose.yaml runs in containers, as plain processes on loopback.

PostgreSQL; MLflow on it, with artifacts that go through the server; Prefect on it; and a worker of the pool `gpu`. They
start in order, each is waited for until it answers, and they end together: by Ctrl-C, SIGTERM, or with whoever started
them. One that was ended from outside is told and started again. Data, ports and passwords stay in .genforge/servers
between starts; so do the logs. `. .genforge/servers/environment` lets a terminal use the servers.

A password that the environment gives (GENFORGE_POSTGRES_PASSWORD, MLFLOW_AUTH_ADMIN_PASSWORD, PREFECT_AUTH_STRING) is
taken at the first start; otherwise one is drawn. They lie in a file that its owner alone can read.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib.util
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from genforge.cli import set_environment
from genforge.commands.arguments import EXIT_FAILED, EXIT_USER
from genforge.files import read_json, replacing
from genforge.locks import alone
from genforge.ownership import end_with_owner, environment, interrupt_on_signals
from genforge.progress import say
from genforge.settings import UserError
from infra import postgresql
from infra.postgresql import PostgreSQL
from pipelines.stages import end_group

STATE = Path(".genforge/servers")
PORTS = {"postgresql": 5432, "mlflow": 5000, "prefect": 4200}  # at the first start, where they are free
DATABASES = ("mlflow", "mlflow_auth", "prefect", "optuna")
USER = "genforge"
POOL = "gpu"
AUTH = Path(__file__).parent / "kubernetes" / "base" / "mlflow-auth.ini"
SECONDS_TO_START = 180.0
SECONDS_BETWEEN_LOOKS = 0.25
MOST_RESTARTS = 5  # within SECONDS_OF_TROUBLE, of all servers together: then all are ended
SECONDS_OF_TROUBLE = 120.0


@dataclass(frozen=True)
class Settings:
    """What has to be the same at every start."""

    ports: dict[str, int]
    postgres_password: str
    mlflow_password: str
    prefect_auth: str  # user:password

    @classmethod
    def of(cls, state: Path) -> Settings:
        """Those of the last start, or new ones, kept for the next."""
        path = state / "settings.json"
        if path.is_file():
            return cls(**read_json(path))
        drawn = cls(
            {name: _free_port(port) for name, port in PORTS.items()},
            os.environ.get("GENFORGE_POSTGRES_PASSWORD") or secrets.token_urlsafe(18),
            os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD") or secrets.token_urlsafe(18),
            os.environ.get("PREFECT_AUTH_STRING") or f"{USER}:{secrets.token_urlsafe(18)}",
        )
        _write_private(path, json.dumps(vars(drawn), indent=2) + "\n")
        return drawn

    def check_ports(self) -> None:
        """Raises UserError where somebody else has one."""
        for name, port in self.ports.items():
            if _free_port(port) != port:
                raise UserError(f"port {port} of {name} is taken by another process; end it, or change the port in "
                                f"{STATE / 'settings.json'}")  # fmt: skip


@dataclass
class Server:
    """One of the processes. `answers` says whether it can be used; `end` ends it and all that it started."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    answers: Callable[[], bool]
    end: Callable[[subprocess.Popen[bytes]], None]
    log: Path
    process: subprocess.Popen[bytes] | None = None


class Servers:
    """The set of servers of the project in `root`.

    Raises:
        UserError: a program is missing, or a port is taken.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.state = root.absolute(), root.absolute() / STATE
        self.state.mkdir(parents=True, exist_ok=True)
        self.settings = Settings.of(self.state)
        self.settings.check_ports()
        self._postgresql = PostgreSQL(
            self.state / "postgresql", self.settings.ports["postgresql"], USER, self.settings.postgres_password
        )
        self.mlflow_asks = importlib.util.find_spec("flask_wtf") is not None  # mlflow[auth]
        # Who uses a server comes after it.
        self._in_order = [[self._database()], [self._mlflow(), self._prefect()], [self._worker()]]
        self._all = [server for together in self._in_order for server in together]
        self._restarts: list[float] = []

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.ports['mlflow']}"

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.ports['prefect']}/api"

    def clients(self) -> dict[str, str]:
        """What a client has in its environment."""
        login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": self.settings.mlflow_password}
        return {
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            **(login if self.mlflow_asks else {}),
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_API_AUTH_STRING": self.settings.prefect_auth,
            "GENFORGE_OPTUNA_STORAGE": "postgresql+psycopg2:///optuna",
            **self._postgresql.environment(),
        }

    def start(self) -> None:
        """Start all in order; each is waited for.

        Raises:
            UserError: one does not start.
        """
        self._postgresql.prepare()
        for together in self._in_order:
            say(f"starting {' and '.join(server.name for server in together)}")
            for server in together:
                server.process = server.start()
            for server in together:
                self._wait(server)
            if together == self._in_order[0]:
                self._postgresql.make_databases(DATABASES)
        lines = [f"export {key}={shlex.quote(value)}\n" for key, value in self.clients().items()]
        _write_private(self.state / "environment", "".join(lines))

    def look_after(self) -> None:
        """Start again what was ended from outside, for as long as this is called.

        Raises:
            UserError: that happens again and again.
        """
        while True:
            for server in self._all:
                if server.process is not None and server.process.poll() is not None:
                    self._again(server)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def end(self) -> None:
        """End all, in the opposite order."""
        for server in reversed(self._all):
            if server.process is not None:
                server.end(server.process)
                server.process = None

    def _again(self, server: Server) -> None:
        assert server.process is not None
        say(f"{server.name} {_how_it_ended(server.process.returncode)}; it is started again (log: {server.log})")
        server.end(server.process)  # what it has left
        self._restarts = [at for at in self._restarts if at > time.monotonic() - SECONDS_OF_TROUBLE]
        self._restarts.append(time.monotonic())
        if len(self._restarts) > MOST_RESTARTS:
            raise UserError(f"{server.name} ends again and again: all servers are ended. The end of {server.log}:\n"
                            f"{_tail(server.log)}")  # fmt: skip
        time.sleep(len(self._restarts) - 1)  # a PostgreSQL that was killed has children to lose first
        server.process = server.start()

    def _wait(self, server: Server) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            assert server.process is not None
            if server.process.poll() is not None:
                raise UserError(f"{server.name} {_how_it_ended(server.process.returncode)} at its start. The end of "
                                f"{server.log}:\n{_tail(server.log)}")  # fmt: skip
            if server.answers():
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)
        raise UserError(f"{server.name} did not answer within {SECONDS_TO_START:.0f} s; see {server.log}")

    def _database(self) -> Server:
        log = self.state / "postgresql.log"
        return Server("postgresql", lambda: self._postgresql.start(log), self._postgresql.answers, postgresql.end, log)

    def _mlflow(self) -> Server:
        words = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(self.settings.ports["mlflow"])]
        words += ["--workers", "1", "--artifacts-destination", str(self.state / "artifacts")]
        words += ["--app-name", "basic-auth"] if self.mlflow_asks else []
        own = {
            "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2:///mlflow",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would start eight more processes
            "MLFLOW_AUTH_CONFIG_PATH": str(AUTH),
            "MLFLOW_AUTH_ADMIN_USERNAME": USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.settings.mlflow_password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
        }
        return self._python("mlflow", words, own, lambda: _answers(f"{self.mlflow_url}/health"))

    def _prefect(self) -> Server:
        words = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.settings.ports["prefect"])]
        own = {
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg:///prefect",
            "PREFECT_SERVER_API_AUTH_STRING": self.settings.prefect_auth,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Else a client and a server that are killed together leak a slot for good.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        return self._python("prefect", words, own, lambda: _answers(f"{self.prefect_url}/health"))

    def _worker(self) -> Server:
        words = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", f"worker-{os.getpid()}"]
        words += ["--limit", "1"]  # a GPU holds one run
        own = {**self.clients(), "PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        return self._python("worker", words, own, self._worker_is_online)

    def _python(self, name: str, words: list[str], own: dict[str, str], answers: Callable[[], bool]) -> Server:
        log = self.state / f"{name}.log"

        def start() -> subprocess.Popen[bytes]:
            variables = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PREFECT_"))}
            variables |= {**self._postgresql.environment(), "PREFECT_HOME": str(self.state / "prefect"), **own}
            with log.open("ab") as output:
                return subprocess.Popen(
                    [sys.executable, "-m", "genforge.ownership", *words],
                    cwd=self.root,
                    env={**variables, **environment()},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

        return Server(name, start, answers, end_group, log)

    def _worker_is_online(self) -> bool:
        request = urllib.request.Request(  # noqa: S310  a loopback address made here
            f"{self.prefect_url}/work_pools/{POOL}/workers/filter",
            b"{}",
            {"Content-Type": "application/json", **_basic(self.settings.prefect_auth)},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:  # the worker makes its pool first
                return False
            raise
        return any(worker["name"] == f"worker-{os.getpid()}" and worker["status"] == "ONLINE" for worker in found)


def _basic(login: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode("ascii")}


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()  # noqa: S310  a loopback address made here
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it answers, and wants to know who asks
    except OSError:
        return False
    return True


def _free_port(wanted: int) -> int:
    """`wanted` where it is free, else another one that is."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise UserError("no port is free on 127.0.0.1")


def _write_private(path: Path, text: str) -> None:
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-15:])


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: ended by a signal, as it should be. 2: a mistake that the user can mend, or a server that does
    not live."""
    argparse.ArgumentParser(
        prog="python -m infra.servers",
        description="PostgreSQL, MLflow, Prefect and a worker as processes on this machine, until Ctrl-C.",
    ).parse_args(argv)
    set_environment()
    end_with_owner()
    root = Path()
    try:
        with alone(root / STATE / "lock", "run the servers of this project"):
            servers = Servers(root)
            interrupt_on_signals()
            try:
                servers.start()
                _tell(servers)
                servers.look_after()
            except KeyboardInterrupt:
                say("ending the servers")
            finally:
                servers.end()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        return EXIT_FAILED
    say("all servers have ended; their data stay in .genforge/servers")
    return 0


def _tell(servers: Servers) -> None:
    say(f"MLflow {servers.mlflow_url}, Prefect {servers.prefect_url.removesuffix('/api')}, a worker of the pool {POOL}")
    if not servers.mlflow_asks:
        say("MLflow asks nobody who they are: Flask-WTF is missing (pip install 'genforge[servers]')")
    say(f"ready: in another terminal `. {STATE}/environment`, then `genforge run`; Ctrl-C ends all")


if __name__ == "__main__":
    sys.exit(main())
