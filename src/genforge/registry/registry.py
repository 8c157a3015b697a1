"""Registered models: one a data set, a version for each model worth keeping, aliases that say which to use.

The same weights are registered once. A version knows its data, commit, recipe, and its metrics under every protocol it
was judged by.

An alias moves only through `move` and `rollback`: compared and set, with an entry in a history that is only ever
appended to (`alias_history.py`), which holds between machines too. The entry is written before the alias moves; whoever
comes next finishes a move that was interrupted, and writes down one that somebody made without us. So the alias equals
its last entry.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from genforge.config import check_name
from genforge.evaluation.metrics import metric as metric_of
from genforge.files import read_json
from genforge.processes import Identity
from genforge.registry.alias_history import AliasHistory, Move, Record, Taken, holders
from genforge.settings import UserError
from genforge.tracking import mlflow_store
from genforge.trained_folder import digest as model_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from genforge.contracts import ImageShape

STAGING = "staging"
TRIES = 5  # to set an alias
PATIENCE = 60.0  # seconds that a move of another machine may take, until it is taken for dead and finished here
PAUSE = (0.1, 0.3)  # seconds between looks at whether it is done
PACKAGES = "package-"  # folders in .genforge/registry where a version is put together: package-<pid>-<start>-...
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second is MLflow's answer to an unknown alias
PROCESS = "genforge.process"  # tag of MLflow's model: the process that uploads its files


class Unusable(UserError):
    """A registered version that can draw no images of the data as they are now."""


class Missing(UserError):
    """There is no such version, as opposed to a store that does not say."""


Scores = Mapping[str, Mapping[str, float]]  # metric to {"mean", "std"}


@dataclass(frozen=True)
class Version:
    """A registered version. `scores` holds its metrics by the name of the protocol that they were judged by. run: id of
    the run in MLflow that trained it, empty where none is known."""

    number: int
    tags: dict[str, str]
    run: str = ""

    @property
    def recipe(self) -> str:
        return self.tags.get("genforge.recipe", "")

    @property
    def family(self) -> str:
        return self.tags.get("genforge.family", "")

    @property
    def scores(self) -> dict[str, Scores]:
        prefix = "genforge.scores."
        return {
            key.removeprefix(prefix): json.loads(value) for key, value in self.tags.items() if key.startswith(prefix)
        }

    def mean(self, metric: str, protocol: str) -> float | None:
        """The metric's mean over sampling seeds, or None when the version was not judged by this protocol."""
        score = self.scores.get(protocol, {}).get(metric)
        return None if score is None else float(score["mean"])


@dataclass(frozen=True)
class Verdict:
    """Whether an alias should move, and why, in words."""

    moves: bool
    reason: str


class Registry:
    """The registered model `name` in the store of the project in `root`.

    Raises:
        UserError: the store does not answer.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name

    @cached_property
    def client(self) -> MlflowClient:
        return mlflow_store.reach(self.root)

    @cached_property
    def history_of_aliases(self) -> AliasHistory:
        return AliasHistory(self.root, self.name, self.client)

    # Versions

    def register(self, folder: Path, scores: Scores, protocol: str, tags: Mapping[str, str]) -> tuple[Version, bool]:
        """The version of the trained model in `folder`, and whether it is new.

        Args:
            scores: metrics to their mean and spread, kept beside those of other protocols.
            protocol: name of the protocol that they were judged by.
            tags: what else the version should know; under `genforge.` unless their names have a dot.
        """
        digest = model_digest(folder)
        judged = {f"genforge.scores.{protocol}": json.dumps(scores)}
        with self._in_turn():
            self.history_of_aliases.make_model()
            number = self._of_digest(digest)
            if number is not None:
                self._tag(number, judged)
                return self.version(number), False
            named = {key if "." in key else f"genforge.{key}": str(value) for key, value in tags.items()}
            return self._create(
                folder, {**named, **judged, "genforge.weights": digest, "genforge.protocol": protocol}
            ), True

    def version(self, number: int) -> Version:
        """The version of this number.

        Raises:
            Missing: there is none.
            UserError: the store does not say.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version(self.name, str(number))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise Missing(f"model {self.name!r} has no version {number}: {error.message}") from None
            what = f"{self.name}/{number} cannot be read from {mlflow_store.store_name(self.root)}"
            raise mlflow_store.in_words(error, self.root, what) from None
        return Version(int(found.version), dict(found.tags), found.run_id or "")

    def record_scores(self, number: int, scores: Scores, protocol: str) -> Version:
        """Keep what a version scored when it was judged again, by another protocol."""
        self._tag(number, {f"genforge.scores.{protocol}": json.dumps(scores)})
        return self.version(number)

    def note(self, number: int, tags: Mapping[str, str]) -> None:
        """Keep what was found of a version, such as what its gates said, as tags under `genforge.`."""
        self._tag(number, {f"genforge.{key}": value for key, value in tags.items()})

    def load(self, number: int, device: str = "auto") -> Any:
        """The version as MLflow's pyfunc model, see `served_model.py`."""
        return load_model(self.root, f"models:/{self.name}/{number}", device)

    # Aliases

    def aliases(self) -> dict[str, int]:
        """Alias to version number."""
        from mlflow.exceptions import MlflowException

        try:
            return {alias: int(number) for alias, number in self.client.get_registered_model(self.name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def holder(self, alias: str) -> Version | None:
        """The version that holds an alias."""
        number = self.aliases().get(alias)
        return None if number is None else self.version(number)

    def move(
        self, alias: str, to: int, expected: int | None, reason: str, evidence: Mapping[str, Any] | None = None
    ) -> Move:
        """Give `alias` to version `to`, if version `expected` still holds it.

        Raises:
            UserError: another version holds it by now, so that what `reason` says was not compared with that one; or
                there is no version `to`. Nothing has changed then.
        """

        def decide(moves: list[Move]) -> Move:
            current = moves[-1].after if moves else None
            if current != expected:
                raise UserError(
                    f"{self.name}@{alias} is {_named(current)} by now, not {_named(expected)}, which version {to} was "
                    f"compared with; nothing was changed: compare again (the step `register`, or `genforge promote`)"
                )
            self.version(to)
            return Move(alias, current, to, "promote", reason, dict(evidence or {}))

        return self._change(alias, decide)

    def rollback(self, alias: str = STAGING, to: int | None = None, reason: str = "") -> Move:
        """Give an alias back to the version that held it before the last promotion that was not rolled back yet, or
        that held it last, where nobody does; or to version `to`, which held it once.

        Raises:
            UserError: there is none.
        """

        def decide(moves: list[Move]) -> Move:
            current = moves[-1].after if moves else None
            held = holders(moves)
            earlier = [number for number in (held if current is None else held[:-1]) if self._exists(number)]
            if to is not None:
                earlier = [to] if to in {move.after for move in moves} and to != current and self._exists(to) else []
            if not earlier:
                wanted = f"cannot go back to version {to}, which" if to is not None else "has no earlier version that"
                raise UserError(
                    f"{self.name}@{alias} is {_named(current)} and {wanted} held it before and is still there; "
                    f"see `genforge history --alias {alias}`, or give it to any version with `genforge promote`"
                )
            said = f"back from version {current}" + (f": {reason}" if reason else "")
            return Move(alias, current, earlier[-1], "rollback", said)

        return self._change(alias, decide)

    def history(self, alias: str | None = None) -> list[Move]:
        """Every move of an alias, or of all, oldest first. What a kill has interrupted is finished first."""
        with self._in_turn():
            return [move for move in self._settle().moves if alias in (None, move.alias)]

    def settle(self) -> None:
        """Finish moves that were interrupted, and write down those that somebody made without us."""
        with self._in_turn():
            self._settle()

    def unsettled(self) -> dict[str, tuple[Move | None, int | None]]:
        """Aliases that are not what their last entry says, or whose last move is not known to be done: the entry and
        the version that holds the alias. Nothing is changed."""
        record, aliases = self.history_of_aliases.read(), self.aliases()
        last = record.last()
        return {
            alias: (last.get(alias), aliases.get(alias))
            for alias in sorted({*last, *aliases})
            if alias not in last or last[alias].number not in record.done or last[alias].after != aliases.get(alias)
        }

    # How it is done

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One at a time on this machine. Nothing true depends on it: it spares them from trying again and again."""
        lock = self.root / ".genforge" / "registry" / f"{self.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def _of_digest(self, digest: str) -> int | None:
        """The number of the version of these weights."""
        query = f"name = '{self.name}' and tags.`genforge.weights` = '{digest}'"
        found = self.client.search_model_versions(query, max_results=1)
        return int(found[0].version) if found else None

    def _create(self, folder: Path, tags: dict[str, str]) -> Version:
        """A new version with its model's files. Killed half-way it leaves files that no version names: `leftovers.py`
        finds them."""
        from genforge.registry.packaging import package

        experiment = mlflow_store.experiment(self.client, self.root, self.name)
        card = read_json(folder / "model.json")
        run = self._training_run(experiment, tags["genforge.weights"])
        parameters = {"recipe": card["name"], "family": card["family"], "origin": card["origin"]}
        parameters = {key: str(value) for key, value in parameters.items()}
        own = Identity.own()
        model = self.client.create_logged_model(
            experiment,
            card["name"],
            run,
            tags={PROCESS: json.dumps(own.to_json())},
            params=parameters,
            model_type="image generator",
        )
        place = self.root / ".genforge" / "registry"
        with tempfile.TemporaryDirectory(prefix=f"{PACKAGES}{own.pid}-{int(own.started)}-", dir=place) as staging:
            package(folder, Path(staging, "model"), model.model_id, run)
            self.client.log_model_artifacts(model.model_id, str(Path(staging, "model")))
        self.client.finalize_logged_model(model.model_id, "READY")
        source = f"models:/{model.model_id}"
        made = self.client.create_model_version(
            self.name, source, run, tags, description=tags.get("genforge.summary"), model_id=model.model_id
        )
        return Version(int(made.version), tags, run or "")

    def _training_run(self, experiment: str, digest: str) -> str | None:
        """The run that said it made these weights, by its tag `genforge.weights`."""
        found = self.client.search_runs([experiment], f"tags.`genforge.weights` = '{digest}'", max_results=1)
        return found[0].info.run_id if found else None

    def _tag(self, number: int, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, str(number), key, value)

    def _change(self, alias: str, decide: Callable[[list[Move]], Move]) -> Move:
        """What `decide` makes of the entries of an alias becomes the next entry, and then the alias follows. Where
        another machine is faster, it is asked again about what that one has left."""
        _check_alias(alias)  # an entry whose alias MLflow refuses could never be followed
        with self._in_turn():
            while True:
                record = self._settle()
                wanted = decide([move for move in record.moves if move.alias == alias])
                try:
                    written = self.history_of_aliases.append(wanted, len(record.moves) + 1)
                except Taken:
                    continue
                self._follow(alias)
                return written

    def _follow(self, alias: str) -> None:
        """Bring an alias to what its newest entry says, until no newer one was written meanwhile.

        Always the newest: whoever was so slow that others took it for dead must not set the alias back to its own.
        """
        move = self._newest(alias)
        while True:
            self._point(alias, move.after)
            self.history_of_aliases.finish(move)
            last = self._newest(alias)
            if last.number == move.number:
                return
            move = last

    def _newest(self, alias: str) -> Move:
        return self.history_of_aliases.read().last()[alias]

    def _point(self, alias: str, to: int | None) -> None:
        from mlflow.exceptions import MlflowException

        for left in reversed(range(TRIES)):
            now = self.aliases().get(alias)
            if now == to or (to is not None and not self._exists(to)):
                return
            try:
                if to is None:
                    self.client.delete_registered_model_alias(self.name, alias)
                else:
                    self.client.set_registered_model_alias(self.name, alias, str(to))
            except MlflowException:  # two machines that set a new alias at once: the database refuses one of them
                if not left:
                    raise

    def _settle(self) -> Record:
        """Finish moves that a kill interrupted, write down those that somebody made without us, and return the history
        as it is then."""
        waiting_since: dict[int, float] = {}
        while True:
            record, aliases = self.history_of_aliases.read(), self.aliases()
            last = record.last()
            unfinished = [move for move in last.values() if move.number not in record.done]
            if unfinished:
                for move in unfinished:
                    since = waiting_since.setdefault(move.number, time.monotonic())
                    if not move.is_orphan and time.monotonic() - since < PATIENCE:
                        time.sleep(random.uniform(*PAUSE))
                    elif aliases.get(move.alias) in (move.before, move.after):
                        self._follow(move.alias)
                    else:  # somebody has moved it since: that is written down below
                        self.history_of_aliases.finish(move)
                continue
            known = {alias: last[alias].after if alias in last else None for alias in {*aliases, *last}}
            strange = [alias for alias in sorted(known) if known[alias] != aliases.get(alias)]
            if not strange:
                return record
            alias = strange[0]
            seen = Move(alias, known[alias], aliases.get(alias), "seen", "moved by hand, outside of genforge")
            with contextlib.suppress(Taken):
                self.history_of_aliases.finish(self.history_of_aliases.append(seen, len(record.moves) + 1))

    def _exists(self, number: int) -> bool:
        try:
            return bool(self.version(number))
        except Missing:
            return False


def _check_alias(alias: str) -> None:
    """Raises UserError unless MLflow takes it for an alias."""
    try:
        check_name(alias)
    except ValueError as error:
        raise UserError(f"alias: {error}") from None
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise UserError(f"alias: {alias!r} means something else to MLflow; give it another name")


def _named(number: int | None) -> str:
    return "nobody's" if number is None else f"version {number}"


def compare(metric: str, protocol: str, candidate: Version, holder: Version | None, why_unjudged: str = "") -> Verdict:
    """Whether `candidate` should take an alias from `holder`.

    It should when its metric is finite and strictly better than the holder's under the same protocol. A holder that
    has no number under this protocol could not be judged by it (`why_unjudged` says why: its images have another
    shape, its files are gone); it is no answer to the data as they are now, and gives way.
    """
    value = candidate.mean(metric, protocol)
    title = metric_of(metric).title
    if value is None or not math.isfinite(value):
        return Verdict(False, f"version {candidate.number} ({candidate.recipe}) has no finite {title}: {value}")
    said = f"version {candidate.number} ({candidate.recipe}), {title} {metric_of(metric).show(value)}"
    if holder is None:
        return Verdict(True, f"{said}, is the first to hold it")
    if holder.number == candidate.number:
        return Verdict(False, f"{said}, holds it already and is still the best")
    other = f"version {holder.number} ({holder.recipe})"
    rival = holder.mean(metric, protocol)
    if rival is None:
        before = holder.tags.get("genforge.protocol", "an unknown protocol")
        return Verdict(
            True,
            f"{said} under {protocol}, takes over from {other}, which was judged by {before} and cannot be "
            f"by {protocol}" + (f": {why_unjudged}" if why_unjudged else ""),
        )
    if not math.isfinite(rival):
        return Verdict(True, f"{said} under {protocol}, takes over from {other}, whose {title} there is {rival}")
    shown = metric_of(metric).show(rival)
    if metric_of(metric).is_better(value, rival):
        return Verdict(True, f"{said}, beats {other} with {shown} under {protocol}")
    return Verdict(False, f"{said}, does not beat {other} with {shown} under {protocol}")


def names(root: Path) -> list[str]:
    """The registered models of the store; none where nobody has made it yet, and nothing is made then.

    Raises:
        UserError: the store does not answer.
    """
    if not mlflow_store.is_there(root):
        return []
    client = mlflow_store.reach(root)
    return sorted(model.name for model in mlflow_store.pages(client.search_registered_models))


def load_model(root: Path, uri: str, device: str = "auto") -> Any:
    """A registered model by MLflow's URI, such as `models:/digits@staging`.

    Raises:
        Unusable: there is no such model, version or alias, or its files are gone.
        UserError: the store does not answer.
    """
    with reading(root, uri):
        import mlflow

        return mlflow.pyfunc.load_model(uri, model_config={"device": device})


@contextlib.contextmanager
def own_folder(root: Path, uri: str) -> Iterator[Path]:
    """The folder that training left (model.json, weights) of a registered model, while the block lasts: for what needs
    the networks themselves, with this project's code.

    Raises:
        Unusable: there is no such model, version or alias, or its files are gone.
        UserError: the store does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="genforge-model-") as place:
        with reading(root, uri):
            import mlflow

            brought = Path(mlflow.artifacts.download_artifacts(uri, dst_path=place))
        yield brought / "artifacts" / "model"


@contextlib.contextmanager
def reading(root: Path, uri: str) -> Iterator[MlflowClient]:
    """A client to read the model at `uri` with; what MLflow refuses within the block is told in our words.

    Raises:
        Unusable: there is no such model, version or alias, or its files are gone.
        UserError: the store does not answer, or cannot say.
    """
    client = mlflow_store.reach(root)
    from mlflow.exceptions import MlflowException

    try:
        yield client
    except MlflowException as error:
        kind = Unusable if error.error_code in ABSENT else UserError
        what = f"{uri} cannot be read from {mlflow_store.store_name(root)}"
        raise mlflow_store.in_words(error, root, what, kind) from None


def check_shape(model: Any, shape: ImageShape) -> None:
    """Raises Unusable unless the loaded model draws images of this shape."""
    drawn = tuple(model.metadata.signature.outputs.inputs[0].shape[1:])
    wanted = (shape.height, shape.width, shape.channels)
    if drawn != wanted:
        raise Unusable(f"it draws images of {drawn} (height, width, channels), but the data are {wanted}")


def draw(model: Any, count: int, seed: int, first: int = 0, batch_size: int = 250) -> np.ndarray:
    """Images `first` to `first + count - 1` of a seed from a loaded model, uint8 (count, height, width, channels)."""
    return model.predict({"n": [count]}, params={"seed": seed, "first": first, "batch_size": batch_size})
