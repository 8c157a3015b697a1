"""Processes that promote, each as its own machine would: `python promoters.py` with a JSON document as its argument.

It imports MLflow once, forks the promoters, and lets them go at the same moment. Each promotes until it was its turn
once, or, where it is told to, is killed by SIGKILL at a given place inside its move. Prints who was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def promote(folder: Path, version: int, deadly: str, go: int) -> None:
    from genforge.registry.registry import Registry
    from genforge.settings import UserError

    registry = Registry(folder, "digits")
    registry.aliases()  # connected
    os.read(go, 1)  # until the parent closes its end

    def killed(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if deadly == "before the entry":
        registry.history_of_aliases.append = killed  # type: ignore[method-assign,assignment]
    elif deadly == "between entry and alias":
        registry.client.set_registered_model_alias = killed  # type: ignore[method-assign,assignment]
    elif deadly == "after the alias":
        registry.history_of_aliases.finish = killed  # type: ignore[method-assign,assignment]
    while True:
        try:
            registry.move("staging", version, registry.aliases().get("staging"), f"the turn of {version}")
            return
        except UserError as error:
            assert "by now" in str(error), error


def main() -> None:
    asked = json.loads(sys.argv[1])
    import mlflow  # noqa: F401
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: F401  what a connection imports

    go, let_go = os.pipe()
    children = {}
    for version, deadly in enumerate(asked["promoters"], 1):
        folder = Path(asked["folder"], f"machine-{version}" if asked["machines"] else "")
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
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
