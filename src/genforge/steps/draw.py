"""Draw images from a model, for people: behind `genforge sample`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genforge.files import replacing_folder, write_array
from genforge.pictures import save_png, sheet
from genforge.progress import Bar
from genforge.settings import UserError

TOGETHER = 250  # images that are drawn at once
REGISTERED = re.compile(r"[^@/]+@[^@/]+|[^@/]+/[0-9]+")  # name@alias or name/version


def draw(model: str, images: int, seed: int, out: Path, root: Path = Path()) -> None:
    """Write images 0 to `images - 1` of `seed` to `out`.

    Args:
        model: `digits@staging`, `digits/3`, an MLflow URI (`models:/...`), or a trained folder (`results/models/gan`).
        out: a `.png` (one grid), a `.npy` (uint8 (images, height, width, channels); points float32), or a folder that
            is new or empty (one PNG an image).

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
            parts.append(source(seed, min(TOGETHER, images - first), first))
            bar.advance(len(parts[-1]))
    try:
        write(out, np.concatenate(parts))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _source(model: str, root: Path) -> Callable[[int, int, int], np.ndarray]:
    """What gives images from seed, count and first."""
    place = root / model
    if place.is_file() or (place.is_dir() and not (place / "model.json").is_file()):
        raise UserError(
            f"--model {model}: is no trained model of genforge: that is a folder with model.json and "
            f"weights.safetensors. Other files (.pt, .pth, .ckpt, .pkl) may hold code, and are never opened"
        )
    if place.is_dir():
        import torch

        from genforge.catalog import target
        from genforge.models import load

        return load(root / model, target, "cuda" if torch.cuda.is_available() else "cpu").draw
    if not model.startswith("models:/") and not REGISTERED.fullmatch(model):
        raise UserError(
            f"--model {model!r}: should be NAME@ALIAS such as digits@staging, NAME/VERSION such as digits/3, "
            f"a `models:/` address, or a folder with a trained model such as results/models/gan"
        )
    from genforge.registry import registry

    loaded = registry.load_model(root, model if model.startswith("models:/") else f"models:/{model}")
    return lambda seed, count, first: registry.draw(loaded, count, seed, first, TOGETHER)


def _writer(out: Path) -> Callable[[Path, np.ndarray], None]:
    if out.suffix == ".npy":
        return write_array
    if out.suffix == ".png":
        return lambda path, images: save_png(path, sheet(images))
    if out.suffix:
        raise UserError(f"--out {out}: should end with .png or .npy, or be a folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already and not an empty folder; name another one")
    return _write_folder


def _write_folder(out: Path, images: np.ndarray) -> None:
    if images.dtype != np.uint8:
        raise UserError(f"--out {out}: points are no images of their own; name a .png (all as dots) or a .npy")
    digits = max(5, len(str(len(images) - 1)))
    with replacing_folder(out) as folder:
        for number, image in enumerate(images):
            save_png(folder / f"{number:0{digits}d}.png", image)
