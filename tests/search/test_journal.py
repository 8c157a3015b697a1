"""The journal's lock leaves no trace of a dead writer: not the lock, and not half a line."""

from __future__ import annotations

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
