"""GPU slots between real processes, on devices that the environment names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genforge import slots
from genforge.settings import UserError
from genforge.slots import Device, devices
from tests.waiting import wait_for

CONTENDER = """
import os, sys, time
from genforge import slots
slot = slots.take()
assert slot is slots.take() and os.environ["CUDA_VISIBLE_DEVICES"] == slot.device.name
with open(sys.argv[1], "a") as log:
    log.write(f"{slot.device.index} enter {os.getpid()}\\n"); log.flush()
    time.sleep(float(sys.argv[2]))
    log.write(f"{slot.device.index} leave {os.getpid()}\\n")
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", slots.DEVICES, slots.SLOTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(slots.FOLDER, str(tmp_path / "slots"))
    monkeypatch.setattr(slots, "_listed", lambda: ())
    monkeypatch.setattr(slots, "_own", None)


def contender(log: Path, seconds: float, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CONTENDER, str(log), str(seconds)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


def most_at_once(log: Path) -> dict[str, int]:
    held: dict[str, int] = {}
    most: dict[str, int] = {}
    for line in log.read_text().splitlines():
        device, what, _ = line.split()
        held[device] = held.get(device, 0) + (1 if what == "enter" else -1)
        most[device] = max(most.get(device, 0), held[device])
    return most


def test_eight_contenders_for_two_devices_are_never_two_on_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [contender(log, 0.2, GENFORGE_DEVICES="0,1") for _ in range(8)]
    told = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, told
    assert len(log.read_text().splitlines()) == 16
    assert most_at_once(log) == {"0": 1, "1": 1}


def test_a_killed_holder_frees_its_device_and_was_named_to_who_waited(tmp_path: Path) -> None:
    log = tmp_path / "log"
    holder = contender(log, 600, GENFORGE_DEVICES="0")
    while not log.exists() or "enter" not in log.read_text():
        time.sleep(0.05)
    waiting = contender(log, 0, GENFORGE_DEVICES="0")
    assert waiting.stderr is not None
    said = waiting.stderr.readline()
    assert "waiting for a GPU" in said and f"pid {holder.pid} on" in said
    assert "leave" not in log.read_text()
    holder.kill()
    holder.communicate()
    assert waiting.wait(timeout=400) == 0


def test_devices_may_be_shared_by_a_number(tmp_path: Path) -> None:
    log = tmp_path / "log"
    shared = {"GENFORGE_DEVICES": "0", "GENFORGE_DEVICE_SLOTS": "2"}
    processes = [contender(log, 600, **shared) for _ in range(2)]
    try:
        wait_for(lambda: log.exists() and log.read_text().count("enter") == 2)
        processes.append(contender(log, 0, **shared))
        assert processes[2].stderr is not None and "waiting for a GPU" in processes[2].stderr.readline()
        processes[0].kill()
        assert processes[2].wait(timeout=400) == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_there_are_as_many_places_as_devices_times_processes_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENFORGE_DEVICES", "0,1")
    assert slots.places() == 2
    monkeypatch.setenv("GENFORGE_DEVICE_SLOTS", "3")
    assert slots.places() == 6
    for wrong in ("x", "0", "-1"):
        monkeypatch.setenv("GENFORGE_DEVICE_SLOTS", wrong)
        with pytest.raises(UserError, match=f"GENFORGE_DEVICE_SLOTS.*{wrong}"):
            slots.places()


def test_the_same_device_by_index_and_by_uuid_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Device("0", "GPU-aaaa-1"), Device("1", "GPU-bbbb-2")
    monkeypatch.setattr(slots, "_listed", lambda: (first, second))
    monkeypatch.setattr(slots, "_torch_knows_cuda", lambda: True)
    assert devices() == (first, second)
    for said, expected in {
        "1": (second,),
        "GPU-bbbb": (second,),
        "1,0": (second, first),
        "": (),
        "0,-1,1": (first,),
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert devices() == expected
    monkeypatch.setenv("GENFORGE_DEVICES", "0")  # goes before
    assert devices() == (first,)
    monkeypatch.setenv("GENFORGE_DEVICES", "7")
    with pytest.raises(UserError, match=r"GENFORGE_DEVICES=7.*lists 0, 1"):
        devices()


def test_without_a_gpu_nothing_is_held_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_torch_knows_cuda", lambda: False)
    assert devices() == () and slots.places() == 0 and slots.take() is None


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_a_folder_that_others_could_have_laid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    monkeypatch.delenv(slots.FOLDER)
    folder = tmp_path / "default"
    monkeypatch.setattr(slots, "Path", lambda said: folder)
    assert slots.slots_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert slots.slots_folder() == folder
    folder.rmdir()
    if trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif trap == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.touch()
    with pytest.raises(UserError, match="belongs to you"):
        slots.slots_folder()
