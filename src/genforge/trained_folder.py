"""What is known of a trained folder without torch: whether it is the one that somebody has looked at."""

from __future__ import annotations

from pathlib import Path

from genforge.files import digest_file, digest_json, read_json
from genforge.settings import UserError


def digest(folder: Path) -> str:
    """Digest of what the images of a trained folder depend on: its weights, its network's settings and its sampler's.

    Raises:
        UserError: the folder holds no trained model.
    """
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights} does not exist; train the model first (`dvc repro`)")
    return digest_json([digest_file(weights), read_json(folder / "model.json")["exported"]])
