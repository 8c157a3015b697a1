"""Checkpoints: a run frozen at one step, on disk whole or not at all.

A checkpoint is a folder `step-<number>` with two files: `tensors.safetensors`, and `state.json`, which holds everything
that is no tensor, what the run is (its recipe), and the digest of both. The folder is written under another name,
synced and renamed, so a process killed at any moment leaves the checkpoint before it as it was. Older ones are removed
only when the new one is on the disk. Nothing is pickled.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from genforge.files import (
    digest_bytes,
    digest_json,
    read_json,
    replacing,
    replacing_folder,
    telling_of_no_room,
    write_json,
)
from genforge.processes import Identity
from genforge.progress import say
from genforge.settings import UserError

FORMAT = 2
NAME = re.compile(r"step-(\d+)(?:-rollback-(\d+))?(-passing)?")
DAMAGED = "damaged-"  # what the name of a damaged one, set aside, begins with
WRITER = "writer.json"  # which process writes here, so that others can tell what is half written from what is left


@dataclass(frozen=True)
class Snapshot:
    """A run at one step.

    step: how many steps are done. tensors: weights, moments, generators, by name. state: JSON values. rollbacks: how
    often the run has come back to a checkpoint; the same step with another number is another snapshot.
    passing: taken because the process was to end. A run goes on from it, and never falls back to it: when somebody
    stopped a run must not decide how it ends.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    rollbacks: int = 0
    passing: bool = False

    @property
    def name(self) -> str:
        """Of its checkpoint."""
        rollback = f"-rollback-{self.rollbacks}" if self.rollbacks else ""
        return f"step-{self.step:010d}{rollback}{'-passing' if self.passing else ''}"


class Damaged(Exception):
    """A checkpoint that is not what was written: cut short, changed, or of a format that is not known here."""


@dataclass
class Checkpoints:
    """The checkpoints of one run, in a folder that belongs to it alone.

    Args:
        folder: made when first needed.
        keep: of how many of the newest steps one is kept. Two at least let a damaged one be passed over. Passing ones
            are kept beside them, until the next that is not.
        identity: what the run is, as JSON (recipe, seed, digest of the data). A checkpoint of another identity is
            refused: weights of another run would look like progress.
        warn: is told of what was passed over, and why.
    """

    folder: Path
    keep: int = 2
    identity: Mapping[str, Any] = field(default_factory=dict)
    warn: Callable[[str], None] = say

    @property
    def averages(self) -> Path:
        """Where the run's averages are written down, see `power_averages.py`."""
        return self.folder / "averages"

    def save(self, snapshot: Snapshot) -> Path:
        """Write `snapshot`, then remove those that are not to be kept any longer.

        The tensors are serialised in memory first, so memory for one more copy of them is needed.

        Raises:
            UserError: it could not be written (the disk is full, say). The checkpoints before it are whole.
        """
        path = self.folder / snapshot.name
        content = serialise(snapshot.tensors)
        what, remedy = f"the checkpoint of step {snapshot.step}", "run again: training goes on from the one before"
        try:
            with telling_of_no_room(what, path, len(content), remedy), replacing_folder(path) as aside:
                with replacing(aside / "tensors.safetensors") as file:
                    file.write(content)
                write_json(aside / "state.json", self._seal(snapshot, digest_bytes(content)))
        except OSError as error:
            raise UserError(
                f"{what} could not be written ({error.strerror or error}: {path}); earlier ones are untouched: mend "
                f"that and {remedy}"
            ) from error
        self._remove_old(path)
        return path

    def load(self) -> Snapshot | None:
        """The newest checkpoint that is whole, or None when there is none. Damaged ones are set aside, with a warning.

        Raises:
            UserError: the checkpoints here belong to another run, or cannot be read.
        """
        self._sign()
        self._clear_unfinished()
        return self._first_whole(whole(self.folder))

    def newest(self) -> Snapshot | None:
        """As `load`, for a process that reads what another one of the same run writes: nothing is set aside."""
        paths = whole(self.folder)
        return self._read(paths[0]) if paths else None

    def fall_back(self, in_vain: int | None = None) -> Snapshot | None:
        """The newest checkpoint to fall back to. When that is of the step `in_vain`, from which the run was tried again
        and did not get any further, then the one before, where there is one. Otherwise as `load`."""
        lasting = [path for path in whole(self.folder) if not _place(path).passing]
        return self._first_whole(sorted(lasting, key=lambda path: _place(path).step == in_vain))

    def _first_whole(self, paths: list[Path]) -> Snapshot | None:
        damaged = []
        snapshot = None
        for path in paths:
            try:
                snapshot = self._read(path)
                break
            except Damaged as damage:
                damaged.append(f"{path} ({damage})")
                self._set_aside(path)
        if damaged:
            where = (
                "afresh, since none is left" if snapshot is None else f"on from the one before, of step {snapshot.step}"
            )
            self.warn(f"damaged checkpoint: {', '.join(damaged)}; kept beside it as {DAMAGED}*; training goes {where}")
        return snapshot

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, newest first. They may be damaged: only `load` looks inside."""
        return [_place(path).step for path in whole(self.folder)]

    def _seal(self, snapshot: Snapshot, tensors_digest: str) -> dict[str, Any]:
        content = {
            "format": FORMAT,
            "identity": dict(self.identity),
            "step": snapshot.step,
            "rollbacks": snapshot.rollbacks,
            "passing": snapshot.passing,
            "state": snapshot.state,
            "tensors": tensors_digest,
        }
        return {**content, "digest": digest_json(content)}

    def _read(self, path: Path) -> Snapshot:
        sealed, content = unsealed(path)
        if digest_json(sealed["identity"]) != digest_json(dict(self.identity)):
            raise UserError(
                f"{path} belongs to another run (its recipe, seed or data differ from this one's); "
                f"remove {self.folder} or give this run another folder"
            )
        tensors = safetensors.torch.load(content)
        return Snapshot(sealed["step"], tensors, sealed["state"], sealed["rollbacks"], sealed["passing"])

    def _set_aside(self, path: Path) -> None:
        """Out of the way of the one that will be written in its place, for whoever wants to know what happened."""
        aside = path.with_name(DAMAGED + path.name)
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)

    def _remove_old(self, new: Path) -> None:
        found = whole(self.folder)
        lasting: dict[int, Path] = {}
        for path in found:
            if not _place(path).passing:
                lasting.setdefault(_place(path).step, path)  # the newest of each step
        kept = {new, *list(lasting.values())[: self.keep]}
        for path in (path for path in found if path not in kept):
            gone = path.with_name(f".{path.name}.old")  # never half of one under its own name
            try:
                path.rename(gone)
                shutil.rmtree(gone)
            except OSError as error:
                self.warn(f"the old checkpoint {path} could not be removed: {error.strerror or error}")

    def _sign(self) -> None:
        try:
            with telling_of_no_room("checkpoints", self.folder):
                write_json(self.folder / WRITER, Identity.own().to_json())
        except OSError as error:
            raise UserError(
                f"checkpoints cannot be written to {self.folder} ({error.strerror or error}); mend that and run again"
            ) from error

    def _clear_unfinished(self) -> None:
        """Remove what a killed process left half written or half removed."""
        for path in unfinished(self.folder):
            shutil.rmtree(path)


def checkpoints_folder(root: Path) -> Path:
    """Where the runs of the project in `root` are kept: <name>/<digest of all inputs>."""
    return root / ".genforge" / "checkpoints"


def whole(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the one written last first. Nothing is missing of them, but they may be damaged."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_place, reverse=True)


def unfinished(folder: Path) -> list[Path]:
    """Folders of checkpoints in `folder` that a process is writing or removing, or was when it was killed."""
    return sorted(path for pattern in (".step-*.tmp", ".step-*.old") for path in folder.glob(pattern))


def unsealed(path: Path) -> tuple[dict[str, Any], bytes]:
    """What the two files of a checkpoint hold, once their digests have been found right.

    Raises:
        Damaged: they are not what was written. UserError: they may not be read.
    """
    try:
        sealed = read_json(path / "state.json")
        content = (path / "tensors.safetensors").read_bytes()
    except PermissionError as error:
        raise UserError(
            f"{error.filename} may not be read; is it another user's? Give it back, or remove {path}"
        ) from None
    except (UserError, OSError) as error:
        raise Damaged(str(error)) from error
    if not isinstance(sealed, dict) or sealed.get("format") != FORMAT:
        raise Damaged(f"its state is not of format {FORMAT}")
    if sealed.pop("digest", None) != digest_json(sealed):
        raise Damaged("the digest of its state is wrong")
    if digest_bytes(content) != sealed["tensors"]:
        raise Damaged("the digest of its tensors is wrong")
    return sealed, content


class _Place(NamedTuple):
    """What a checkpoint's name says. Places sort by age: after a rollback come earlier steps once more."""

    rollbacks: int
    step: int
    passing: bool


def _place(path: Path) -> _Place:
    found = NAME.fullmatch(path.name)
    assert found is not None
    return _Place(int(found[2] or 0), int(found[1]), found[3] is not None)


def serialise(tensors: Mapping[str, Tensor]) -> bytes:
    """The contents of a safetensors file. Tensors that share memory are written one by one, as the format wants it."""
    separate, seen = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    return safetensors.torch.save(separate)
