"""The journal's lock leaves no trace of a dead writer: not the lock, and not half a line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from genforge.search.journal import KernelLock, cut_torn_tail


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"one\n", b"one\n"),
        (b"one\ntw", b"one\n"),
        (b"tw", b""),
        (b"one\n" + b"x" * 200_000, b"one\n"),
    ],
)
def test_a_torn_tail_is_cut_at_the_last_newline(tmp_path: Path, before: bytes, after: bytes) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(before)
    cut_torn_tail(journal)
    assert journal.read_bytes() == after


def test_the_next_holder_cuts_before_it_writes(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(b'{"whole":1}\n{"ha')
    lock = KernelLock(journal)
    assert lock.acquire()
    with journal.open("ab") as file:
        file.write(b'{"next":2}\n')
    lock.release()
    assert journal.read_bytes() == b'{"whole":1}\n{"next":2}\n'


def test_a_killed_holder_gives_the_lock_back_at_once(tmp_path: Path) -> None:
    """Optuna's own locks keep everyone waiting for 30 seconds here."""
    journal = tmp_path / "journal.log"
    script = (
        "import sys, time; from pathlib import Path; from genforge.search.journal import KernelLock\n"
        "journal = Path(sys.argv[1]); KernelLock(journal).acquire(); journal.write_bytes(b'one\\ntw')\n"
        "print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(journal)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    holder.kill()
    began = time.monotonic()
    KernelLock(journal).acquire()
    assert time.monotonic() - began < 60
    assert journal.read_bytes() == b"one\n"
    holder.wait()
    holder.stdout.close()
