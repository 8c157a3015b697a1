"""One flow at a time retrains a project; a second one is turned away before it begins, and without Prefect."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from genforge.locks import Busy, Lock, alone, busy
from genforge.steps.project import Project

RETRAIN = "retrain this project"


def turn_away(project: Project) -> None:
    """Raises Busy while a flow retrains the project, on this machine."""
    if (lock := Lock(_lock(project))).is_held():
        raise Busy(busy(lock, RETRAIN))


def the_only_one(project: Project) -> AbstractContextManager[None]:
    """For the length of the block no other flow retrains the project. Raises Busy where one does."""
    return alone(_lock(project), RETRAIN)


def _lock(project: Project) -> Path:
    return project.lock("flow")
