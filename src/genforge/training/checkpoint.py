"""Checkpoints: a run frozen at one step, on disk whole or not at all.

A checkpoint is a folder `step-<number>` with two files: `tensors.safetensors`, and `state.json`, which holds everything
that is no tensor, what the run is (its recipe), and the digest of both. The folder is written under another name,
synced and renamed, so a process killed at any moment leaves the checkpoint before it as it was. Nothing is pickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from genforge.files import digest_bytes, digest_json, read_json, replacing, replacing_folder, write_json
from genforge.progress import say
from genforge.settings import UserError

FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """A run at one step.

    step: how many steps are done. tensors: weights, moments, generators, by name. state: JSON values.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Damaged(Exception):
    """A checkpoint that is not what was written: cut short, changed, or of a format that is not known here."""


@dataclass
class Checkpoints:
    """The checkpoints of one run, in a folder that belongs to it alone.

    Args:
        folder: made when first needed.
        keep: how many of the newest are kept. Two at least let a damaged one be passed over.
        identity: what the run is, as JSON (recipe, seed, digest of the data). A checkpoint of another identity is
            refused: weights of another run would look like progress.
        warn: is told of what was passed over, and why.
    """

    folder: Path
    keep: int = 2
    identity: Mapping[str, Any] = field(default_factory=dict)
    warn: Callable[[str], None] = say

    def save(self, snapshot: Snapshot) -> Path:
        """Write `snapshot`, then remove all but the newest `keep`.

        The tensors are serialised in memory first, so memory for one more copy of them is needed.

        Raises:
            UserError: it could not be written (the disk is full, say). The checkpoints before it are whole.
        """
        path = self.folder / f"step-{snapshot.step:010d}"
        content = serialise(snapshot.tensors)
        try:
            self._clear_unfinished()
            with replacing_folder(path) as aside:
                with replacing(aside / "tensors.safetensors") as file:
                    file.write(content)
                write_json(aside / "state.json", self._seal(snapshot, digest_bytes(content)))
            for old in self._whole()[self.keep :]:
                shutil.rmtree(old)
        except OSError as error:
            raise UserError(
                f"the checkpoint of step {snapshot.step} could not be written ({error.strerror or error}: {path}); "
                f"earlier ones are untouched: make room there and run again, and training goes on from the newest"
            ) from error
        return path

    def load(self) -> Snapshot | None:
        """The newest checkpoint that is whole, or None when there is none. Damaged ones are passed over with a warning.

        Raises:
            UserError: the checkpoints here belong to another run.
        """
        self._clear_unfinished()
        for path in self._whole():
            try:
                return self._read(path)
            except Damaged as damage:
                self.warn(f"checkpoint {path} is damaged ({damage}); the one before it is used")
        return None

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, newest first. They may be damaged: only `load` looks inside."""
        return [int(path.name.removeprefix("step-")) for path in self._whole()]

    def _seal(self, snapshot: Snapshot, tensors_digest: str) -> dict[str, Any]:
        content = {
            "format": FORMAT,
            "identity": dict(self.identity),
            "step": snapshot.step,
            "state": snapshot.state,
            "tensors": tensors_digest,
        }
        return {**content, "digest": digest_json(content)}

    def _read(self, path: Path) -> Snapshot:
        try:
            sealed = read_json(path / "state.json")
            content = (path / "tensors.safetensors").read_bytes()
        except (UserError, OSError) as error:
            raise Damaged(str(error)) from error
        if not isinstance(sealed, dict) or sealed.get("format") != FORMAT:
            raise Damaged(f"its state is not of format {FORMAT}")
        if sealed.pop("digest", None) != digest_json(sealed):
            raise Damaged("the digest of its state is wrong")
        if digest_bytes(content) != sealed["tensors"]:
            raise Damaged("the digest of its tensors is wrong")
        if digest_json(sealed["identity"]) != digest_json(dict(self.identity)):
            raise UserError(
                f"{path} belongs to another run (its recipe, seed or data differ from this one's); "
                f"remove {self.folder} or give this run another folder"
            )
        return Snapshot(sealed["step"], safetensors.torch.load(content), sealed["state"])

    def _whole(self) -> list[Path]:
        """Folders of checkpoints, newest first."""
        return sorted((path for path in self.folder.glob("step-*") if path.is_dir()), reverse=True)

    def _clear_unfinished(self) -> None:
        """Remove what a killed process left half written."""
        for pattern in (".step-*.tmp", ".step-*.old"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path)


def serialise(tensors: Mapping[str, Tensor]) -> bytes:
    """The contents of a safetensors file. Tensors that share memory are written one by one, as the format wants it."""
    separate, seen = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    return safetensors.torch.save(separate)
