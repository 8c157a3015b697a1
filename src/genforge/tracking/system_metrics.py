"""How busy the machine was while a run went on: points under `system/`, which MLflow shows on a page of their own.

The names are MLflow's own. A thread looks every ten seconds, so that a run that is shorter has none, and what it costs
is not felt. A GPU is looked at where the run's process has opened it already.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

from genforge.settings import UserError

SECONDS_BETWEEN_LOOKS = 10.0
MEGABYTE = 2**20


@contextlib.contextmanager
def watched(tell: Callable[[int, Mapping[str, float]], None], seconds: float = SECONDS_BETWEEN_LOOKS) -> Iterator[None]:
    """Tell what the machine does, as (number of the look from 0, values), for as long as the block lasts."""
    over = threading.Event()

    def watch() -> None:
        import psutil

        process, look = psutil.Process(), 0
        psutil.cpu_percent()  # what it tells is since the call before
        while not over.wait(seconds):
            with contextlib.suppress(UserError):  # of a full disk the run's own next word says so
                tell(look, _look(process))
            look += 1

    watcher = threading.Thread(target=watch, name="system metrics", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _look(process: object) -> dict[str, float]:
    import psutil

    assert isinstance(process, psutil.Process)
    memory = psutil.virtual_memory()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_percentage": memory.percent,
        "system_memory_usage_megabytes": memory.used / MEGABYTE,
        "process_memory_usage_megabytes": process.memory_info().rss / MEGABYTE,
    }
    return {f"system/{key}": value for key, value in (values | _gpus()).items()}


def _gpus() -> dict[str, float]:
    """Memory in use on the GPUs of this process; nothing where it has none, or has not got to it yet."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return {}
    used = {}
    for place in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(place)
        used[f"gpu_{place}_memory_usage_megabytes"] = (whole - free) / MEGABYTE
        used[f"gpu_{place}_memory_usage_percentage"] = 100 * (whole - free) / whole
    return used
