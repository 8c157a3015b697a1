"""One holder at a time, named to the second; the kernel frees a lock when its holder is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genforge.locks import Busy, Lock, alone
from genforge.settings import UserError
from genforge.steps import checked
from genforge.steps.project import Project

HOLD = (
    "import subprocess, sys, time; from pathlib import Path; from genforge.locks import alone\n"
    "with alone(Path(sys.argv[1]), 'write'):\n"
    "    child = subprocess.Popen(['sleep', '60'], close_fds=False)\n"
    "    print(child.pid, flush=True); time.sleep(60)\n"
)


def holder(path: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that holds the lock, and its child, which inherits whatever can be inherited."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_the_second_is_turned_away_with_the_name_of_the_first_and_death_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "one.lock"
    process, child = holder(path)
    try:
        with pytest.raises(Busy) as caught, alone(path, "write results/models/gan"):
            pass
        for part in ("write results/models/gan", f"pid {process.pid} on {os.uname().nodename}", "since 20", "python"):
            assert part in str(caught.value)
        assert Lock(path).is_held()
        process.kill()
        process.wait()
        with alone(path, "write"):  # though the child lives on
            os.kill(child, 0)
            assert Lock(path).is_held()
    finally:
        process.kill()
        os.kill(child, 9)
    assert not Lock(path).is_held()


def test_who_waits_gets_the_lock_of_one_that_is_ending(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    process, child = holder(path)
    os.kill(child, 9)
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"]).wait()
    began = time.monotonic()
    with alone(path, "write", patience=60):
        assert time.monotonic() - began < 50
    process.wait()


def test_a_lock_whose_file_was_removed_locks_nobody_out(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    assert first.acquire() and not second.acquire()
    first.release()
    assert second.acquire()
    second.path.unlink()
    assert not second._stands(second._handle)  # type: ignore[arg-type]
    assert first.acquire()
    first.release()
    second.release()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        Lock(tmp_path / "a.lock").acquire()
    assert not (tmp_path / "victim").exists()


def test_a_second_step_on_the_same_outputs_is_turned_away(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    checked.ensure(Project.load(tmp_path))  # no need to check them in the other process, too
    process, child = holder(tmp_path / ".genforge" / "locks" / "resolve.lock")
    try:
        program = (
            "import sys; from genforge import cli; from genforge.commands import pipeline\n"
            "pipeline.SECONDS_FOR_A_DYING_ONE = 0.5; sys.exit(cli.main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", program, "step", "resolve"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "do the step resolve here" in done.stderr and f"pid {process.pid}" in done.stderr
        assert "waiting" in done.stderr
        assert not (tmp_path / "results").exists()
    finally:
        process.kill()
        process.wait()
        os.kill(child, 9)


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, kind: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match="cannot be locked"):
        Lock(tmp_path / "a.lock").acquire()
