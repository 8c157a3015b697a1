"""A command line tells which program it runs, and a process is told from a later one with its number."""

from __future__ import annotations

import subprocess
import sys

import pytest

from genforge.processes import Identity, command_line, describe, program


@pytest.mark.parametrize(
    ("line", "name", "typed"),
    [
        ("dvc repro", "dvc", "dvc repro"),
        ("/venv/bin/python3 /venv/bin/dvc repro train@gan", "dvc", "dvc repro train@gan"),
        ("python -m dvc.cli repro", "dvc", "dvc.cli repro"),
        ("python3.11 -P -X dev -m genforge.search.fork_server", "genforge", "genforge.search.fork_server"),
        ("/venv/bin/python /venv/bin/genforge step train gan", "genforge", "genforge step train gan"),
        ("python -m pipelines.retrain --jobs 2", "pipelines", "pipelines.retrain --jobs 2"),
        ("/usr/bin/make run", "make", "make run"),
        ("bash -c dvc", "bash", "bash -c dvc"),
        ("python -c dvc", "python", "python -c dvc"),
        ("", "", "another process"),
    ],
)
def test_programs_are_told_by_their_command_line(line: str, name: str, typed: str) -> None:
    assert program(line.split()) == name
    assert command_line(line.split()) == typed


def test_a_number_that_was_given_out_again_is_another_process() -> None:
    own = Identity.own()
    assert not own.is_gone()
    assert Identity(own.pid, own.started - 60, own.host).is_gone()
    child = subprocess.Popen([sys.executable, "-c", ""])
    identity = Identity.of(child.pid)
    assert identity is not None
    while not identity.is_gone():  # already when it has ended and nobody has asked for its status
        pass
    child.wait()
    assert str(own.pid) in describe(own, "dvc repro") and "`dvc repro`" in describe(own, "dvc repro")
