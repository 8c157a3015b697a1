"""Optuna's importances at a tenth of their cost.

Two of its methods, which are not ours, want scikit-learn's forests, and do without where there is no scikit-learn. To
import it, with pandas and scipy.stats, takes seconds: so while Optuna looks for it there seems to be none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, cast


@contextlib.contextmanager
def without_scikit_learn() -> Iterator[None]:
    """Within the block scikit-learn cannot be imported; one that has been already stays."""
    if "sklearn" in sys.modules:
        yield
        return
    modules = cast(dict[str, Any], sys.modules)
    modules["sklearn"] = None  # the import system's own way to say: not to be found
    try:
        yield
    finally:
        del modules["sklearn"]
