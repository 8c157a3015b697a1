"""Draw images from a model, for people: behind `genforge sample`. Every PNG says where it came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
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
    said = replace(origin(model, root), seed=seed)
    # The version that was found, whatever its alias does now.
    source = _source(f"models:/{said.model}/{said.version}" if said.version else model, root)
    parts = []
    with Bar(f"drawing from {model}", images, "images") as bar:
        for first in range(0, images, TOGETHER):
            parts.append(source(seed, min(TOGETHER, images - first), first))
            bar.advance(len(parts[-1]))
    try:
        write(out, np.concatenate(parts), said)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def origin(model: str, root: Path) -> Provenance:
    """What the images of `model` say of where they came from, but for their seed and number. Arguments as of `draw`."""
    place = root / model
    if (place / "model.json").is_file():
        from genforge.files import read_json
        from genforge.models import digest

        card = read_json(place / "model.json")
        if not isinstance(card, dict) or "exported" not in card:
            raise UserError(f"{place / 'model.json'} does not describe a model of genforge")
        return Provenance(str(card.get("name", place.name)), None, digest(place), 0, 0)
    from genforge.registry import origins

    return origins.origin(root, _address(model, root))


def _source(model: str, root: Path) -> Callable[[int, int, int], np.ndarray]:
    """What gives images from seed, count and first."""
    place = root / model
    if place.is_dir():
        import torch

        from genforge.catalog import target
        from genforge.models import load

        return load(root / model, target, "cuda" if torch.cuda.is_available() else "cpu").draw
    from genforge.registry import registry

    loaded = registry.load_model(root, _address(model, root))
    return lambda seed, count, first: registry.draw(loaded, count, seed, first, TOGETHER)


def _address(model: str, root: Path) -> str:
    """MLflow's address of a registered model.

    Raises:
        UserError: `model` is no name of one, or something else that lies there.
    """
    place = root / model
    if place.is_file() or (place.is_dir() and not (place / "model.json").is_file()):
        raise UserError(
            f"--model {model}: is no trained model of genforge: that is a folder with model.json and "
            f"weights.safetensors. Other files (.pt, .pth, .ckpt, .pkl) may hold code, and are never opened"
        )
    if model.startswith("models:/"):
        return model
    if not _REGISTERED.fullmatch(model):
        raise UserError(
            f"--model {model!r}: should be NAME@ALIAS such as digits@staging, NAME/VERSION such as digits/3, "
            f"a `models:/` address, or a folder with a trained model such as results/models/gan"
        )
    return f"models:/{model}"


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
