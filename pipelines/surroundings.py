"""What Prefect has to be told before it is imported, and its import: every file with a flow calls `prepare` first."""

from __future__ import annotations

import os

from genforge.cli import set_environment
from genforge.quick_start import without_collecting


def prepare() -> None:
    """Defaults for this process and its children, where the user says nothing else. Then Prefect."""
    set_environment()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # what goes wrong is told by `main`, in our words
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")  # seconds; see killed_runs.py
    with without_collecting():
        import prefect  # noqa: F401
