"""An MLflow server that is started again whenever it has died, as a machine would that looks after it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

SECONDS_TO_ANSWER = 120.0


class KeptServer:
    """On a loopback port that stays its own, over SQLite in `folder`; `log` gets what it prints."""

    def __init__(self, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self._folder, self._log = folder, log
        self._environment = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def keep(self) -> None:
        """Start it unless it lives."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # what is left of it holds the port
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Keep it until it answers. Raises TimeoutError when it does not."""
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while time.monotonic() < deadline:
            self.keep()
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise TimeoutError(f"the MLflow server does not answer; see {self._log}")

    def end(self) -> None:
        """SIGTERM, and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(30)
