"""Real processes, really killed: whoever works for them ends, and nobody else does."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from genforge.processes import words_of
from tests.waiting import wait_for

# A trainer with a worker that hears nothing but SIGKILL; it notes its end as a checkpoint would be noted.
TRAINER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from genforge import ownership
ownership.end_with_owner()
ownership.stop_on_signals()
worker = subprocess.Popen([sys.executable, "-c", '''
import signal, time
from genforge.ownership import end_with_owner
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end_with_owner()
print('watching', flush=True)
time.sleep(600)
'''], stdout=subprocess.PIPE, env={**os.environ, **ownership.environment()})
worker.stdout.readline()
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path("pids").write_text(f"{os.getpid()} {worker.pid}")
try:
    time.sleep(600)
finally:
    Path("tidied").touch()
"""
SECONDS = 60  # five are what is promised to people; a machine under load is given more


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the trainer and ways to start it; what a failed test leaves is ended."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    line = f"{sys.executable} trainer.py"
    (tmp_path / "Makefile").write_text(f"run:\n\t@{line}; true\nstubborn:\n\t@{line} stubborn; true\n")
    yield tmp_path
    with contextlib.suppress(FileNotFoundError):
        for pid in (tmp_path / "pids").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def trainers(folder: Path) -> list[psutil.Process]:
    """The trainer and its worker, once they are at work."""
    wait_for(lambda: (folder / "pids").exists() and len((folder / "pids").read_text().split()) == 2)
    return [psutil.Process(int(pid)) for pid in (folder / "pids").read_text().split()]


def assert_all_end(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=SECONDS)
    assert not alive, [words_of(process.pid) for process in alive]


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    # A session of its own keeps this test's terminal and `make` out of the story.
    return subprocess.Popen(command, cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL)


def test_a_killed_make_takes_its_trainer_along_through_its_checkpoint(folder: Path) -> None:
    make = start(folder, "make", "run")
    family = trainers(folder)
    make.kill()
    make.wait()
    assert_all_end(family)
    assert (folder / "tidied").exists()


def test_a_trainer_that_does_not_listen_is_killed(folder: Path) -> None:
    make = start(folder, "make", "stubborn")
    family = trainers(folder)
    make.kill()
    make.wait()
    assert_all_end(family)
    assert not (folder / "tidied").exists()


def test_the_death_of_what_stands_between_is_noticed(folder: Path) -> None:
    make = start(folder, "make", "run")
    family = trainers(folder)
    shell = family[0].parent()
    assert shell is not None and shell.pid != make.pid
    shell.kill()
    assert_all_end(family)
    make.wait()


def test_a_killed_trainer_leaves_no_worker(folder: Path) -> None:
    make = start(folder, "make", "run")
    family = trainers(folder)
    family[0].kill()
    assert_all_end(family)
    make.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_dvc_takes_its_stage_along(folder: Path, number: signal.Signals) -> None:
    """Its process alone is killed, not its group."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup, and so does all that they start")
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(f"stages: {{train: {{cmd: '{sys.executable} trainer.py; true', outs: [out]}}}}\n")
    dvc = start(folder, sys.executable, "-m", "dvc", "repro", "-q")
    family = trainers(folder)
    dvc.send_signal(number)
    dvc.wait()
    assert_all_end(family)
    assert (folder / "tidied").exists()


def test_a_closed_terminal_ends_what_runs_in_it(folder: Path) -> None:
    with terminal(folder, "make run"):
        family = trainers(folder)
    assert_all_end(family)


def test_nohup_lives_on_without_its_shell_and_terminal_but_not_without_its_make(folder: Path) -> None:
    with terminal(folder, "nohup make run > log 2>&1 &"):
        family = trainers(folder)
        make = next(parent for parent in family[0].parents() if parent.name() == "make")
    time.sleep(2.5)  # ten looks at the owners
    assert all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    make.kill()
    assert_all_end(family)


@contextlib.contextmanager
def terminal(folder: Path, line: str) -> Iterator[None]:
    """An interactive shell in a terminal of its own, with one line typed. At the end the terminal is closed and the
    shell is killed, as a window does."""
    shell, screen = pty.fork()
    if shell == 0:
        os.chdir(folder)
        os.execv(shutil.which("bash") or "/bin/sh", ["bash", "--norc", "-i"])
    try:
        os.write(screen, f"{line}\n".encode())
        yield
    finally:
        os.close(screen)
        time.sleep(0.2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(shell, signal.SIGKILL)
        os.waitpid(shell, 0)


def test_what_is_not_ours_runs_in_a_process_that_watches(folder: Path) -> None:
    """`python -m genforge.ownership MODULE`: whatever else is in its group ends with it, though it watches nothing."""
    (folder / "foreign.py").write_text(
        "import os, subprocess, sys; from pathlib import Path\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "Path('argv').write_text(' '.join(sys.argv[1:]))\n"
        "Path('pids').write_text(f'{os.getpid()} {child.pid}')\n"
        "child.wait()\n"
    )
    owner = (
        "import os, subprocess, sys; from genforge.ownership import environment\n"
        "paths = os.environ.get('PYTHONPATH', '') + os.pathsep + '.'\n"
        "command = [sys.executable, '-m', 'genforge.ownership', 'foreign', 'one', 'two']\n"
        "told = {**os.environ, **environment(), 'PYTHONPATH': paths}\n"
        "subprocess.Popen(command, start_new_session=True, env=told).wait()"
    )
    started = start(folder, sys.executable, "-c", owner)
    family = trainers(folder)
    started.kill()
    started.wait()
    assert_all_end(family)
    assert (folder / "argv").read_text() == "one two"


def test_a_process_without_owner_lives_on(folder: Path) -> None:
    # The outer shell goes at once, so that nothing of ours (the `make` of these tests) stands above the inner one.
    start(folder, "sh", "-c", f"sh -c '{sys.executable} trainer.py & sleep 600' & exit 0").wait()
    family = trainers(folder)
    middle = family[0].parent()
    assert middle is not None and middle.pid > 1
    middle.kill()
    time.sleep(1.5)
    assert all(process.is_running() for process in family)
