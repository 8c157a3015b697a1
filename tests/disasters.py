"""Real ends of real processes: killed, or out of room, at the n-th thing that they do to the disk.

The work runs in a forked child (which has everything imported already). An audit hook, which Python calls before each
`open`, `mkdir`, `rename` and removal, kills the child or refuses it room there. So a loop over n goes through every
instant that a disk could tell apart.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
CANNOT_MOUNT = 78  # exit status of a child that may not have a small disk of its own
REACHED = 77  # exit status of a child that did fewer things than the one it was to be stopped at

Disaster = Literal["kill", "full"]


def in_child(work: Callable[[], Any], seconds_until_killed: float | None = None) -> int:
    """Run `work` in a forked child and return its exit status, negative for a signal.

    Args:
        seconds_until_killed: when it gets SIGKILL, if it still lives.
    """
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    if seconds_until_killed is not None:
        process.join(seconds_until_killed)
        process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def strike(disaster: Disaster, number: int, folder: Path, work: Callable[[], Any]) -> int:
    """Run `work` in a child that is struck at the `number`-th change (from 1) under `folder`, and from there on where
    the disk is full. Returns its exit status; REACHED when it ended before."""

    def struck() -> None:
        left = number

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
            if not changes or not str(arguments[0]).startswith(str(folder)):
                return
            left -= 1
            if disaster == "kill" and left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if disaster == "full" and left <= 0 and event in ("open", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

        sys.addaudithook(hook)
        work()
        if left > 0:
            sys.exit(REACHED)

    return in_child(struck)


def mount_small_disk(folder: Path, size: int) -> None:
    """In a child: `folder` becomes a disk of `size` bytes in memory, which nobody else sees and which ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespaces = 0x00020000 | 0x10000000  # CLONE_NEWNS | CLONE_NEWUSER
    private = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
    user, group = os.getuid(), os.getgid()
    if libc.unshare(new_namespaces) != 0:
        sys.exit(CANNOT_MOUNT)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    options = f"size={size}".encode()
    mounted = libc.mount(b"none", b"/", None, private, None) == 0
    if not mounted or libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options) != 0:
        sys.exit(CANNOT_MOUNT)
