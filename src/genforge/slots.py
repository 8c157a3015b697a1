"""GPU slots: who may use which device, on the whole machine.

A slot is a device index, or the GPU's UUID where `nvidia-smi` tells it, so that two processes that count devices
differently still mean the same one. It is an `flock` (see `locks`): when its holder dies, by whatever end, the kernel
frees it at once.

A process takes one slot before it touches CUDA, sets `CUDA_VISIBLE_DEVICES` to that device, and holds it to its end.
Environment:

- `GENFORGE_DEVICES=0,1`: the only devices to use, by index or UUID. They are believed: where there is no CUDA, a step
  holds them all the same. Without it, those of `CUDA_VISIBLE_DEVICES`, else all that `nvidia-smi` lists.
- `GENFORGE_DEVICE_SLOTS=2`: processes that may share a device. Default 1.
- `GENFORGE_SLOTS_FOLDER`: where locks lie. Default `/tmp/genforge-<user id>`, one for all projects of a user. Users or
  containers that share GPUs name one folder that all of them may write.

Indices are those of `nvidia-smi` (`CUDA_DEVICE_ORDER=PCI_BUS_ID`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from genforge.locks import Lock
from genforge.progress import say
from genforge.settings import UserError

DEVICES, SLOTS, FOLDER = "GENFORGE_DEVICES", "GENFORGE_DEVICE_SLOTS", "GENFORGE_SLOTS_FOLDER"
SECONDS_BETWEEN_TRIES = 0.2
SECONDS_BETWEEN_WORDS = 60.0


@dataclass(frozen=True)
class Device:
    """A GPU: its index, and the name by which CUDA and every other process know it (UUID, or the index)."""

    index: str
    name: str


class Slot:
    """A device that this process holds."""

    def __init__(self, device: Device, lock: Lock, folder: int) -> None:
        self.device, self._lock, self._folder = device, lock, folder

    def release(self) -> None:
        self._lock.release()
        os.close(self._folder)


_own: Slot | None = None


def devices() -> tuple[Device, ...]:
    """The devices that steps may hold; none where there is no GPU, or torch cannot use one.

    Raises:
        UserError: the environment names a device that `nvidia-smi` does not list.
    """
    said = os.environ.get(DEVICES)
    if said is None and not _torch_knows_cuda():
        return ()
    listed = _listed()
    wanted, variable = (
        (said, DEVICES) if said is not None else (os.environ.get("CUDA_VISIBLE_DEVICES"), "CUDA_VISIBLE_DEVICES")
    )
    if wanted is None:
        return listed
    found: list[Device] = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry in ("", "-1"):
            break  # as CUDA reads it: what follows is hidden
        known = [device for device in listed if device.index == entry or device.name.startswith(entry)]
        if listed and not known and not entry.startswith("MIG-"):
            indices = ", ".join(device.index for device in listed)
            raise UserError(f"{variable}={wanted}: there is no device {entry!r}; nvidia-smi lists {indices}")
        found.append(known[0] if known else Device(entry, entry))
    return tuple(dict.fromkeys(found))


def places() -> int:
    """How many processes may use devices at once; 0 where there is none."""
    return len(devices()) * _slots_a_device()


def take() -> Slot | None:
    """One slot for this process, as soon as one is free; None where there is no device. A second call gives the same.

    While it waits it says who holds them.
    """
    global _own
    if _own is not None:
        return _own
    choice = devices()
    if not choice:
        return None
    folder = slots_folder()
    keep = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(keep, fcntl.LOCK_SH)  # systemd-tmpfiles leaves alone what lies in a locked folder
    mode = 0o666 if FOLDER in os.environ else 0o600
    locks = [
        (device, Lock(folder / f"device-{device.name}-{place}.lock", mode))
        for place in range(_slots_a_device())  # an empty device before a second process on one
        for device in choice
    ]
    spoke = float("-inf")
    while True:
        for device, lock in locks:
            if lock.acquire():
                os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
                os.environ["CUDA_VISIBLE_DEVICES"] = device.name
                _own = Slot(device, lock, keep)
                return _own
        if time.monotonic() - spoke > SECONDS_BETWEEN_WORDS:
            spoke = time.monotonic()
            holders = "; ".join(f"{device.index}: {lock.holder() or 'another process'}" for device, lock in locks)
            say(f"waiting for a GPU. {holders}")
        time.sleep(SECONDS_BETWEEN_TRIES)


def slots_folder() -> Path:
    """Where the locks lie, made if need be.

    Raises:
        UserError: the default folder is not ours alone. Anyone may write to /tmp, and a link there could lead anywhere.
    """
    if said := os.environ.get(FOLDER):
        folder = Path(said)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    # Neither TMPDIR nor XDG_RUNTIME_DIR: a job of cron and a terminal of the same user must find the same locks.
    folder = Path(f"/tmp/genforge-{os.getuid()}")  # noqa: S108  (checked below)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise UserError(
                f"{folder} should be a folder that belongs to you and that nobody else may read or write; remove it, "
                f"or name another one in {FOLDER}"
            ) from None
    return folder


def _slots_a_device() -> int:
    text = os.environ.get(SLOTS, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{SLOTS}={text!r}: should be a whole number, 1 or more")
    return int(text)


def _torch_knows_cuda() -> bool:
    import torch

    return torch.backends.cuda.is_built()


@cache
def _listed() -> tuple[Device, ...]:
    """What `nvidia-smi` lists. It costs half a second, so it is asked once a process."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split(",") for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    return tuple(Device(index.strip(), uuid.strip()) for index, uuid in rows)
