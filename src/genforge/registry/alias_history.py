"""The history of a registered model's aliases: who moved which from where to where, when, and on what evidence.

It is the truth; an alias is what its last entry says. It lies in MLflow, where every machine finds it: entry n is the
parameter n of one run, which the registered model names by its tag `genforge.history`. MLflow writes a parameter once
and refuses to change it, and its database holds that by a primary key. So of all who would write entry n at the same
time, on however many machines, one does, and the others are told (`Taken`): that is the compare-and-set which aliases
themselves do not have. A second parameter, `n.done`, says that the alias was moved; until it is there, or the author of
entry n is known to be dead, nobody else touches the alias.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genforge.processes import Identity
from genforge.tracking import mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN = "genforge.history"  # the registered model's tag that names the run
_LONGEST = 5000  # characters of a parameter: MLflow cuts at 6000, without a word


class Taken(Exception):
    """Somebody else has written the entry of this number: read again, and compare again."""


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
    number: int = 0  # 1, 2, ...: one row for all aliases of the model
    process: dict[str, Any] = field(default_factory=dict)  # the author, see `processes.Identity`

    @property
    def is_orphan(self) -> bool:
        """Whether its author is known to have ended."""
        return Identity.from_json(self.process).is_gone()


@dataclass(frozen=True)
class Record:
    """The history as it was read: entries in their order, and the numbers of those whose alias was moved."""

    moves: list[Move]
    done: set[int]

    def last(self) -> dict[str, Move]:
        """The last entry of every alias."""
        return {move.alias: move for move in self.moves}


class AliasHistory:
    """The history of the registered model `name`."""

    def __init__(self, root: Path, name: str, client: MlflowClient) -> None:
        self._root, self._name, self._client = root, name, client

    def make_model(self) -> None:
        """Make the registered model, with its empty history. Of several who do, one does."""
        from mlflow.exceptions import MlflowException

        if self._run_id() is not None:
            return
        run = self._new_run()
        try:
            self._client.create_registered_model(self._name, tags={RUN: run})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if self._run_id() is None:  # made by hand
                self._client.set_registered_model_tag(self._name, RUN, run)
            else:
                self._client.delete_run(run)

    def read(self) -> Record:
        run = self._run()
        entries = {} if run is None else run.data.params
        numbers = sorted(int(key) for key in entries if key.isdecimal())
        moves = [Move(**self._whole(json.loads(entries[_key(number)]), entries)) for number in numbers]
        return Record(moves, {int(key.removesuffix(".done")) for key in entries if key.endswith(".done")})

    def append(self, move: Move, number: int) -> Move:
        """Write entry `number`, for good, and return it with its time and author. The alias is moved after that.

        Raises:
            Taken: there is an entry of this number.
        """
        from mlflow.exceptions import MlflowException

        run = self._open_run()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        written = replace(move, who=_who(), time=stamp, number=number, process=Identity.own().to_json())
        value: dict[str, Any] = asdict(written)
        text = json.dumps(value, allow_nan=False)
        if len(text) > _LONGEST:
            text = json.dumps({**value, "evidence": self._apart(run, number, value["evidence"])}, allow_nan=False)
        try:
            self._client.log_param(run, _key(number), text)
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE" and _key(number) in self._entries(run):
                raise Taken from None
            raise
        return written

    def finish(self, move: Move) -> None:
        """Say that the alias was moved."""
        from mlflow.exceptions import MlflowException

        run = self._open_run()
        try:
            self._client.log_param(run, f"{_key(move.number)}.done", "yes")
        except MlflowException:
            if f"{_key(move.number)}.done" not in self._entries(run):
                raise

    def _apart(self, run: str, number: int, evidence: dict[str, Any]) -> dict[str, Any]:
        """Long evidence goes into parameters of its own, before the entry that names them."""
        text, token = json.dumps(evidence, allow_nan=False), secrets.token_hex(4)
        parts = [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]
        for part, content in enumerate(parts):
            self._client.log_param(run, f"{_key(number)}.evidence.{token}.{part}", content)
        return {"apart": token, "parts": len(parts)}

    @staticmethod
    def _whole(value: dict[str, Any], entries: dict[str, str]) -> dict[str, Any]:
        evidence = value["evidence"]
        if set(evidence) != {"apart", "parts"}:
            return value
        key = f"{_key(value['number'])}.evidence.{evidence['apart']}"
        return {**value, "evidence": json.loads("".join(entries[f"{key}.{n}"] for n in range(evidence["parts"])))}

    def _entries(self, run: str) -> dict[str, str]:
        return self._client.get_run(run).data.params

    def _run_id(self) -> str | None:
        """The run that the registered model names; None: there is no such model, or it was made by hand."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self._name).tags.get(RUN)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _run(self) -> Any:
        """MLflow's run with the history, or None."""
        from mlflow.exceptions import MlflowException

        identity = self._run_id()
        try:
            return None if identity is None else self._client.get_run(identity)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # somebody deleted it for good (`mlflow gc`)
                return None
            raise

    def _open_run(self) -> str:
        """The run, ready to be written to: brought back from the bin, or made again where somebody removed it."""
        run = self._run()
        if run is None:
            identity = self._new_run()
            self._client.set_registered_model_tag(self._name, RUN, identity)
            return identity
        if run.info.lifecycle_stage == "deleted":
            mlflow_store.experiment(self._client, self._root, self._name)  # a run may have gone with its experiment
            if self._client.get_run(run.info.run_id).info.lifecycle_stage == "deleted":
                self._client.restore_run(run.info.run_id)
        return str(run.info.run_id)

    def _new_run(self) -> str:
        experiment = mlflow_store.experiment(self._client, self._root, self._name)
        tags = {"genforge.kind": "history of aliases"}
        run = self._client.create_run(experiment, run_name=f"{self._name}: history of aliases", tags=tags)
        self._client.set_terminated(run.info.run_id, "FINISHED")  # nobody works on it: it must not look killed
        return str(run.info.run_id)


def holders(moves: list[Move]) -> list[int]:
    """Versions that held an alias and were not rolled back, oldest first. While somebody has the alias, it is the last;
    to have lost the alias and to be given it again is to have held it on.

    To go back to a version that was itself rolled back is to promote it again.
    """
    held: list[int] = []
    for move in moves:
        if move.action == "rollback" and move.after in held:
            while held[-1] != move.after:
                held.pop()
        elif move.after is not None and held[-1:] != [move.after]:
            held.append(move.after)
    return held


def _key(number: int) -> str:
    return f"{number:06d}"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
