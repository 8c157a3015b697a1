"""Optuna without what it looks for, finds, and we have no use for: packages that others here have brought along.

Its importances, in two methods that are not ours, want scikit-learn's forests: that import, with pandas and
scipy.stats, takes seconds. Its journal may lie in Redis: a tenth of a second in every worker. It does without either
where there is none, so while it looks there seems to be none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, cast

SCIKIT_LEARN, REDIS = "sklearn", "redis"


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Within the block the package cannot be imported; one that has been already stays."""
    if package in sys.modules:
        yield
        return
    modules = cast(dict[str, Any], sys.modules)
    modules[package] = None  # the import system's own way to say: not to be found
    try:
        yield
    finally:
        del modules[package]
