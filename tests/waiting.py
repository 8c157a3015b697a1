"""To wait for what other processes do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(look: Callable[[], T], seconds: float = 600.0, *, pause: float = 0.05) -> T:
    """What `look` gives, once it gives something; a file that is not there yet is nothing.

    Args:
        look: is called again and again, with a pause between.
        seconds: after which a test has failed. Machines that others use are slow now and then.
        pause: seconds; longer where a look costs the other process something, too.
    """
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError):
            if found := look():
                return found
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(pause)
