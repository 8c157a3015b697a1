"""Large packages, imported at nine to eight tenths of their cost.

An import makes hundreds of thousands of objects, nearly all to stay. Python looks through them for garbage again and
again meanwhile, and finds none.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Within the block, which imports something large, nothing looks for garbage; nor ever after among what is there at
    its end."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()
