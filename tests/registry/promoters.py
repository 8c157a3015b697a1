"""Processes that promote, each as its own machine would.

One process connects, forks the promoters, and lets them go at the same moment. Each promotes until it was its turn
once, or, where it is told to, is killed by SIGKILL at a given place inside its move.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path


def forget_connections() -> None:
    """In a forked process: the parent's connections to a database are not ours."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Models
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for engine in [*Tracking._engine_map.values(), *Models._engine_map.values()]:
        engine.dispose(close=False)


def promote(folder: Path, version: int, deadly: str, go: int) -> None:
    from genforge.registry.alias_history import Move
    from genforge.registry.registry import Registry
    from genforge.settings import UserError

    forget_connections()
    registry = Registry(folder, "digits")
    registry.aliases()  # connected
    os.read(go, 1)  # until the parent closes its end

    history, client = registry.history_of_aliases, registry.client
    append, point, finish = history.append, client.set_registered_model_alias, history.finish

    def die_in(place: str, version_meant: int | None) -> None:
        if deadly == place and version_meant == version:  # in the own move, not in one that it finishes for another
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly_append(move: Move, number: int) -> Move:
        die_in("before the entry", move.after)
        return append(move, number)

    def deadly_point(name: str, alias: str, to: str) -> None:
        die_in("between entry and alias", int(to))
        point(name, alias, to)

    def deadly_finish(move: Move) -> None:
        die_in("after the alias", move.after)
        finish(move)

    history.append = deadly_append  # type: ignore[method-assign]
    client.set_registered_model_alias = deadly_point
    history.finish = deadly_finish  # type: ignore[method-assign]
    while True:
        try:
            registry.move("staging", version, registry.aliases().get("staging"), f"the turn of {version}")
            return
        except UserError as error:
            assert "by now" in str(error), error
            time.sleep(random.uniform(0.0, 2.0))  # not all again at the same moment


def promote_together(root: Path, promoters: list[str], machines: bool, answer: Path) -> None:
    """Write the exit codes of the promoters by the versions that they promote, as JSON.

    Args:
        promoters: for each version from 1, the place inside its move where its promoter is killed, or nothing.
        machines: each has a folder of its own.
    """
    from genforge.registry.registry import Registry

    forget_connections()
    Registry(root, "digits").aliases()  # connecting for the first time takes a second
    go, let_go = os.pipe()
    children = {}
    for version, deadly in enumerate(promoters, 1):
        folder = root / (f"machine-{version}" if machines else "")
        folder.mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            os.close(let_go)
            promote(folder, version, deadly, go)
            os._exit(0)
        children[child] = version
    os.close(let_go)
    ends = {}
    for child, version in children.items():
        ends[version] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answer.write_text(json.dumps(ends))
