"""What a kill can leave behind, and how it is mended.

A room that keeps state between processes has a file `leftovers.py` of its own that finds what its dead have left; the
command `genforge doctor` asks them all. Finding changes nothing. Mending is safe at any time: it looks again first, and
what has come back to life, or was mended by another, is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Leftover:
    """One thing that somebody who was killed has left.

    kind: one word or two for a table: `run`, `trial`, `lock`, `temporary file`.
    place: the file, or the name by which its store knows it.
    what: what is wrong with it, and since when or whose it was where that is known.
    remedy: what `mend` will do, as a person would say it before doing it: "delete it", "mark it KILLED".
    mend: does that. Raises UserError when it cannot.
    """

    kind: str
    place: str
    what: str
    remedy: str
    mend: Callable[[], None]
