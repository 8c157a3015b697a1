"""The history of a registered model's aliases: who moved which from where to where, when, and on what evidence.

It is only ever appended to: to a file of this machine (`.genforge/registry/<model>.jsonl`), and, once a move is done,
to the tags of the registered model, where other machines find it. An entry that is in the file alone is of a move that
was interrupted.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genforge.tracking.mlflow_store import store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "genforge.history."
_LONGEST_TAG = 5000  # characters of a tag's value: what MLflow's database takes


@dataclass(frozen=True)
class Move:
    """One entry. before, after: version numbers, None for no version. The rest is filled in when it is written."""

    alias: str
    before: int | None
    after: int | None
    action: Literal["promote", "rollback", "seen"]  # seen: somebody moved it without us
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    who: str = ""
    time: str = ""  # ISO 8601, UTC
    id: str = ""  # sorts by time
    store: str = ""  # digest of the store's URI


class AliasHistory:
    """The history of the registered model `name`. Its methods are called under the registry's lock."""

    def __init__(self, root: Path, name: str, client: MlflowClient) -> None:
        self._client, self._name = client, name
        self._store = hashlib.blake2b(store_uri(root).encode(), digest_size=8).hexdigest()
        self.path = root / ".genforge" / "registry" / f"{name}.jsonl"

    def append(self, move: Move) -> Move:
        """Write an entry to the file, for good, and return it with its time and author. The move itself comes after."""
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now // 10**9))
        identity = f"{now:020d}-{secrets.token_hex(4)}"
        move = replace(move, who=_who(), time=stamp, id=identity, store=self._store)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            torn = file.read(1) not in (b"", b"\n")  # a kill inside a line: that move was never begun
            file.write(b"\n" * torn + json.dumps(asdict(move), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return move

    def tell(self, move: Move) -> None:
        """Write an entry to MLflow: the move is done."""
        text = json.dumps(asdict(move), allow_nan=False)
        if len(text) > _LONGEST_TAG:
            text = json.dumps(asdict(replace(move, evidence={}, reason=move.reason[:1000])), allow_nan=False)
        self._client.set_registered_model_tag(self._name, _TAG + move.id, text)

    def moves(self, alias: str | None = None) -> list[Move]:
        """Every entry of an alias, or of all, from whichever machine, oldest first."""
        moves = {move.id: move for move in [*self._told(), *self._local()]}
        return [moves[key] for key in sorted(moves) if alias in (None, moves[key].alias)]

    def interrupted(self) -> list[Move]:
        """Entries whose moves nobody finished."""
        told = {move.id for move in self._told()}
        return [move for move in self._local() if move.id not in told]

    def _told(self) -> list[Move]:
        model = self._model()
        tags = {} if model is None else model.tags
        return [Move(**json.loads(value)) for key, value in tags.items() if key.startswith(_TAG)]

    def _local(self) -> list[Move]:
        """Entries of the file that are about this model: in this store, and not from before it was deleted and made
        again (a user may remove the whole database)."""
        model = self._model()
        if model is None or not self.path.exists():
            return []
        moves = []
        for line in self.path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                moves.append(Move(**json.loads(line)))
        born = f"{model.creation_timestamp * 10**6:020d}"
        return [move for move in moves if move.store == self._store and move.id >= born]

    def _model(self) -> Any:
        """MLflow's entry of the registered model, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self._name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def holders(moves: list[Move]) -> list[int]:
    """Versions that held an alias and were not rolled back, oldest first; the last one holds it now."""
    held: list[int] = []
    for move in moves:
        if move.action == "rollback":
            while held and held[-1] != move.after:
                held.pop()
        elif move.after is not None:
            held.append(move.after)
    return held


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
