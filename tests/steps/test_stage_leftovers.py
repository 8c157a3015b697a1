"""What killed stages leave is found, told, and mended; what lives is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from genforge.files import replacing, replacing_folder
from genforge.leftovers import Leftover
from genforge.steps.leftovers import find

WRITE = (
    "import sys, time; from pathlib import Path; from genforge.files import replacing, replacing_folder\n"
    "with replacing_folder(Path('results/models/gan')) as folder, replacing(Path('data/raw.npy')) as file:\n"
    "    (folder / 'half').write_text('half'); print(flush=True); time.sleep(60)\n"
)


def found(root: Path) -> dict[str, Leftover]:
    return {leftover.kind: leftover for leftover in find(root)}


def test_outputs_are_called_half_written_only_when_their_writer_is_dead(tmp_path: Path) -> None:
    (tmp_path / "results" / "models" / "gan").mkdir(parents=True)
    writer = subprocess.Popen([sys.executable, "-c", WRITE], cwd=tmp_path, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(1.2)
    assert not found(tmp_path)
    writer.kill()
    writer.wait()
    left = found(tmp_path)
    assert set(left) == {"temporary file", "temporary folder"}
    assert "gan" in left["temporary folder"].place and "4 bytes" in left["temporary folder"].what
    for leftover in left.values():
        leftover.mend()
        leftover.mend()  # a second time: nothing is there
    assert not found(tmp_path)
    assert (tmp_path / "results" / "models" / "gan").is_dir()


def test_writing_again_leaves_nothing(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with replacing_folder(tmp_path / "data" / "folder") as folder, replacing(folder / "file", "w") as file:
            file.write(text)
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["folder", "file"]
    assert (tmp_path / "data" / "folder" / "file").read_text() == "two"


def test_entries_of_dead_dvc_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    table = tmp_path / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(parents=True)
    alive = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dvc repro"])
    dead = subprocess.Popen(["true"])
    dead.wait()
    try:
        time.sleep(0.1)
        entries = [{"pid": alive.pid, "cmd": "dvc repro"}, {"pid": dead.pid, "cmd": "dvc repro -s x"}]
        reused = {"pid": os.getpid(), "cmd": "dvc repro -s y"}  # this process is no dvc
        table.write_text(
            json.dumps({"write": {"/a": entries[1], "/b": entries[0], "/c": reused}, "read": {"/d": entries}})
        )
        leftover = found(tmp_path)["lock"]
        assert str(dead.pid) in leftover.what and str(os.getpid()) in leftover.what
        assert str(alive.pid) not in leftover.what
        leftover.mend()
        assert json.loads(table.read_text()) == {"write": {"/b": entries[0]}, "read": {"/d": entries[:1]}}
        assert not found(tmp_path)
    finally:
        alive.kill()
        alive.wait()


def test_a_table_that_was_cut_off_is_removed_and_dvc_works_again(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: touch b, outs: [b]}}\n")
    (tmp_path / ".dvc" / "tmp").mkdir(exist_ok=True)
    (tmp_path / ".dvc" / "tmp" / "rwlock").write_text('{"write": {"/a": {"pi')
    repro = [sys.executable, "-m", "dvc", "repro", "-q"]
    assert subprocess.run(repro, cwd=tmp_path, capture_output=True).returncode != 0
    found(tmp_path)["lock"].mend()
    assert subprocess.run(repro, cwd=tmp_path, capture_output=True).returncode == 0
    assert not found(tmp_path)


def test_a_stopped_stage_whose_owner_was_killed_is_found_and_ended(tmp_path: Path) -> None:
    """It cannot end itself: it does nothing at all."""
    (tmp_path / "genforge").write_text(
        "import os, time; from pathlib import Path; Path('pid').write_text(str(os.getpid())); time.sleep(600)\n"
    )
    (tmp_path / "Makefile").write_text(f"run:\n\t@{sys.executable} genforge step train gan; true\n")
    code = "import os, subprocess; from genforge.ownership import environment\n"
    code += "subprocess.Popen(['make', 'run'], env={**os.environ, **environment()}).wait()"
    owner = subprocess.Popen([sys.executable, "-P", "-c", code], cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    stage = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        stage.send_signal(signal.SIGSTOP)
        assert "process" not in found(tmp_path)  # its owner lives
        owner.kill()
        owner.wait()
        leftover = found(tmp_path)["process"]
        assert leftover.place == f"pid {stage.pid}" and "genforge step train gan" in leftover.what
        leftover.mend()
        psutil.wait_procs([stage], timeout=60)
        assert "process" not in found(tmp_path)
    finally:
        for process in (stage,):
            if process.is_running():
                process.kill()


def test_finding_changes_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    assert not found(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".model.json.tmp", "notes.tmp", ".hidden", "a.12345678.tmp"])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).touch()
    os.utime(tmp_path / "data" / name, (0, 0))
    time.sleep(1.1)
    assert not found(tmp_path)
