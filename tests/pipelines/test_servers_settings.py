"""What `make servers` keeps between starts, and what it says before anything starts."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genforge.settings import UserError
from infra import servers
from infra.servers import Server, Servers, Settings


def test_ports_and_passwords_stay_and_nobody_else_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "given by somebody")
    first = Settings.of(tmp_path)
    assert first.mlflow_password == "given by somebody" and len(first.postgres_password) > 20
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD")
    assert Settings.of(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o600
    assert Settings.of(tmp_path / "other").postgres_password != first.postgres_password


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of mlflow is taken"):
            Settings({"mlflow": port}, "", "", "").check_ports()
    Settings({"mlflow": port}, "", "", "").check_ports()


def failing(tmp_path: Path, program: str) -> Servers:
    """Servers of which there is one, and that runs `program`."""
    log = tmp_path / "log"

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen([sys.executable, "-c", program], stdout=output, stderr=output)

    set_of_one = Servers.__new__(Servers)
    set_of_one._all = [Server("mlflow", start, lambda: False, lambda process: None, log)]
    set_of_one._restarts = []
    return set_of_one


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    found = failing(tmp_path, "raise SystemExit('the database is of a later version')")
    (server,) = found._all
    server.process = server.start()
    with pytest.raises(UserError, match=r"mlflow ended with status 1 at its start(.|\n)*of a later version"):
        found._wait(server)


def test_one_that_ends_again_and_again_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(servers, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    found = failing(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    found._all[0].process = found._all[0].start()
    with pytest.raises(UserError, match="again and again"):
        found.look_after()
    said = "".join(capsys.readouterr())
    assert said.count(f"mlflow was ended by {signal.SIGKILL.name}; it is started again") > servers.MOST_RESTARTS
