"""A real MLflow server that can be killed, and a network before it that behaves badly."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.ports import free_port


class Server:
    """`mlflow server` over SQLite in `folder`, on a port that stays its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "files")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(900):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """SIGKILL to it and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class BadNetwork:
    """A proxy before a server. What it does to a request is drawn from `moods`:

    pass; slow: after a while; refuse: answers 500 or 503 itself; lose: closes without asking the server; forget: the
    server does it, nobody hears; twice: the server does it twice; hang: never answers. Requests of more than `too_long`
    bytes are all `late`: answered when nobody waits any more.
    """

    def __init__(self, server: Server, moods: list[str], seed: int = 0, too_long: int = 2**30) -> None:
        self.moods, self.server, self._too_long = moods, server, too_long
        self.seen: list[str] = []
        self._random = random.Random(seed)
        self._closing = threading.Event()
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    network._handle(self)
                else:
                    self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._proxy.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"

    def __enter__(self) -> BadNetwork:
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self._closing.set()
        self._proxy.shutdown()
        self._proxy.server_close()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        mood = "late" if len(body) > self._too_long else self._random.choice(self.moods)
        self.seen.append(mood)
        match mood:
            case "lose":
                request.close_connection = True
                return
            case "hang":
                self._closing.wait()
                request.close_connection = True
                return
            case "refuse":
                _answer(request, self._random.choice([500, 503]), {}, b"<html>busy</html>")
                return
            case "slow":
                time.sleep(0.2)
            case "twice":
                self._ask(request, body)
        status, headers, answer = self._ask(request, body)
        if mood == "late":
            time.sleep(1.5)
        if mood == "forget":
            request.close_connection = True
        else:
            _answer(request, status, headers, answer)

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            link.request(request.command, request.path, body, headers)
            response = link.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        except OSError:
            return 502, {}, b"<html>bad gateway</html>"
        finally:
            link.close()


def _answer(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client went away
        request.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
