"""How many CPU cores this process may keep busy, which is how many threads it computes with.

A container with a quota (`docker run --cpus`, a Kubernetes limit) sees all cores of its machine, and all of its threads
are stopped at once whenever it has used up its time: with a quota of 4 and a thread for each of 64 cores, it computes
for a few milliseconds of every tenth of a second and stands still for the rest.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from genforge.settings import UserError

THREADS_VARIABLE = "GENFORGE_THREADS"
CGROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """As many as `GENFORGE_THREADS` says, or the process is bound to, or its quota pays for: at least 1.

    Raises:
        UserError: `GENFORGE_THREADS` is no whole number from 1.
    """
    return limit() or bound()


def limit() -> int | None:
    """What `GENFORGE_THREADS` says, or a quota that is less than all cores; None where there is neither.

    Raises:
        UserError: as `cores`.
    """
    if said := os.environ.get(THREADS_VARIABLE):
        if not (said.isascii() and said.isdigit() and int(said) > 0):
            raise UserError(f"{THREADS_VARIABLE} is {said!r}; it should be a number of CPU threads from 1, or unset")
        return int(said)
    # Rounded down: one thread more would have all the others wait, layer by layer, once the quota is used up.
    paid = quota()
    return None if paid is None or paid >= bound() else max(1, math.floor(paid))


def bound() -> int:
    """Cores that this process is bound to: all of the machine's, unless someone has bound it to some."""
    return len(os.sched_getaffinity(0))


def quota(groups: Path = CGROUPS, own: Path = OWN_GROUPS) -> float | None:
    """Cores' worth of time that the kernel grants this process's control groups, the least of them; None: no quota.

    Of both versions of control groups (Linux's cgroup-v2.rst, "CPU Interface Files"; sched-bwc.rst).

    Args:
        groups: where they are mounted. own: who is in which, as /proc/<pid>/cgroup tells.
    """
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:  # not Linux, or nothing is told
        return None
    granted = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = Path(path.lstrip("/"))
        # In a container the path may be the machine's and the mount the container's own: what is missing is passed by.
        for folder in (inside, *inside.parents):
            if not controllers:
                granted.append(_second_version(groups / folder / "cpu.max"))
            elif "cpu" in controllers.split(","):
                granted.append(_first_version(groups / "cpu" / folder))
    return min((share for share in granted if share is not None), default=None)


def _second_version(file: Path) -> float | None:
    """`200000 100000` is two cores, `max 100000` all."""
    words = _words(file)
    return None if len(words) != 2 or words[0] == "max" else int(words[0]) / int(words[1])


def _first_version(folder: Path) -> float | None:
    """A quota of -1 is none."""
    microseconds, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return int(microseconds[0]) / int(period[0]) if microseconds and period and int(microseconds[0]) > 0 else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").split()
    except OSError:
        return []
