"""Draw images from a model, for people: behind `genforge sample`. Every PNG says where it came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from genforge import provenance
from genforge.files import replacing, replacing_folder, write_array
from genforge.pictures import columns_of, grid
from genforge.progress import Bar
from genforge.provenance import Provenance
from genforge.settings import UserError

TOGETHER = 250  # images that are drawn at once
_REGISTERED = re.compile(r"[^@/]+@[^@/]+|[^@/]+/[0-9]+")  # name@alias or name/version


@dataclass(frozen=True)
class _Source:
    """What gives images from seed, count and first, and what they say of where they came from."""

    images: Callable[[int, int, int], np.ndarray]
    origin: Provenance


def draw(model: str, images: int, seed: int, out: Path, root: Path = Path()) -> None:
    """Write images 0 to `images - 1` of `seed` to `out`.

    A PNG carries its provenance as text, and from 64x64 up each image in it a watermark (`provenance.py`). An array has
    no place for text and is for programs: it holds the very bits that the judge would see.

    Args:
        model: `digits@staging`, `digits/3`, the same with `models:/`, or a trained folder (`results/models/gan`).
        out: a `.png` (one grid), a `.npy` (uint8 (images, height, width, channels)), or a folder that is new or empty
            (one PNG an image).

    Raises:
        UserError: there is no such model, or nothing can be written like this.
    """
    if images < 1 or not 0 <= seed < 2**63:
        raise UserError(f"-n should be 1 or more and --seed 0 to 2^63 - 1, not {images} and {seed}")
    write = _writer(out)
    source = _source(model, root)
    parts = []
    with Bar(f"drawing from {model}", images, "images") as bar:
        for first in range(0, images, TOGETHER):
            parts.append(source.images(seed, min(TOGETHER, images - first), first))
            bar.advance(len(parts[-1]))
    try:
        write(out, np.concatenate(parts), replace(source.origin, seed=seed))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _source(model: str, root: Path) -> _Source:
    place = root / model
    if place.is_file() or (place.is_dir() and not (place / "model.json").is_file()):
        raise UserError(
            f"--model {model}: is no trained model of genforge: that is a folder with model.json and "
            f"weights.safetensors. Other files (.pt, .pth, .ckpt, .pkl) may hold code, and are never opened"
        )
    if place.is_dir():
        import torch

        from genforge.catalog import target
        from genforge.models import digest, load

        loaded = load(place, target, "cuda" if torch.cuda.is_available() else "cpu")
        return _Source(loaded.draw, Provenance(loaded.card["name"], None, digest(place), 0, 0))
    if not model.startswith("models:/") and not _REGISTERED.fullmatch(model):
        raise UserError(
            f"--model {model!r}: should be NAME@ALIAS such as digits@staging, NAME/VERSION such as digits/3, "
            f"a `models:/` address, or a folder with a trained model such as results/models/gan"
        )
    from genforge.registry import registry
    from genforge.registry.origins import origin

    found = origin(root, model if model.startswith("models:/") else f"models:/{model}")
    registered = registry.load_model(root, f"models:/{found.model}/{found.version}")  # whatever the alias does now
    return _Source(lambda seed, count, first: registry.draw(registered, count, seed, first, TOGETHER), found)


def _writer(out: Path) -> Callable[[Path, np.ndarray, Provenance], None]:
    if out.suffix == ".npy":
        return lambda path, images, origin: write_array(path, images)
    if out.suffix == ".png":
        return _write_grid
    if out.suffix:
        raise UserError(f"--out {out}: should end with .png or .npy, or be a folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already and not an empty folder; name another one")
    return _write_folder


def _write_grid(out: Path, images: np.ndarray, origin: Provenance) -> None:
    said = replace(origin, images=len(images), columns=columns_of(len(images)))
    with replacing(out) as file:
        file.write(provenance.png(grid(provenance.mark(images, origin)), said))


def _write_folder(out: Path, images: np.ndarray, origin: Provenance) -> None:
    digits = max(5, len(str(len(images) - 1)))
    with replacing_folder(out) as folder:
        for number, image in enumerate(provenance.mark(images, origin)):
            (folder / f"{number:0{digits}d}.png").write_bytes(provenance.png(image, origin.of(number)))
