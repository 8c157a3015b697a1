"""Draw images from a model, for people: behind `genforge sample`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.files import replacing_folder, write_array
from genforge.pictures import save_png, sheet
from genforge.progress import Bar
from genforge.settings import UserError

if TYPE_CHECKING:
    from genforge.models import Model

TOGETHER = 250  # images that are drawn at once
_REGISTERED = re.compile(r"[^@/]+@[^@/]+|[^@/]+/[0-9]+")  # name@alias or name/version


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
    _written(write, out, np.concatenate(parts))


def draw_between(
    model: str, strips: int, places: int, seed: int, to_seed: int | None, out: Path, root: Path = Path()
) -> None:
    """Write strips of `places` images on the way from image i of `seed` to image i of `to_seed`, or to image i + 1 of
    `seed` where that is None; a strip a row.

    Args:
        model, out: as of `draw`; a folder gets every image of a strip before those of the next.

    Raises:
        UserError: there is no such model, it has no latents to walk between, or nothing can be written like this.
    """
    if strips < 1 or places < 2:
        raise UserError(f"-n should be 1 or more and --interpolate 2 or more, not {strips} and {places}")
    if not all(0 <= one < 2**63 for one in (seed, to_seed or 0)):
        raise UserError(f"--seed and --to-seed should be 0 to 2^63 - 1, not {seed} and {to_seed}")
    write = _writer(out, places)
    place = _trained_folder(model, root)
    if place is not None:
        source: Any = _load(place)
    else:
        from genforge.registry import registry

        source = registry.load_model(root, _address(model)).unwrap_python_model().model
        if not hasattr(source, "between"):
            raise UserError(f"--model {model}: this version was registered before models could walk between latents")
    try:
        images = source.between(seed, strips, places, to_seed)
    except Exception as error:
        if type(error).__name__ != UserError.__name__:  # a registered version carries a UserError of its own
            raise
        raise UserError(f"--model {model}: {error}") from None
    _written(write, out, images.reshape(-1, *images.shape[2:]))


def _source(model: str, root: Path) -> Callable[[int, int, int], np.ndarray]:
    """What gives images from seed, count and first."""
    place = _trained_folder(model, root)
    if place is not None:
        return _load(place).draw
    from genforge.registry import registry

    loaded = registry.load_model(root, _address(model))
    return lambda seed, count, first: registry.draw(loaded, count, seed, first, TOGETHER)


def _load(place: Path) -> Model:
    import torch

    from genforge.catalog import target
    from genforge.models import load

    return load(place, target, "cuda" if torch.cuda.is_available() else "cpu")


def _trained_folder(model: str, root: Path) -> Path | None:
    """The folder that `model` names; None where there is nothing."""
    place = root / model
    if place.is_file() or (place.is_dir() and not (place / "model.json").is_file()):
        raise UserError(
            f"--model {model}: is no trained model of genforge: that is a folder with model.json and "
            f"weights.safetensors. Other files (.pt, .pth, .ckpt, .pkl) may hold code, and are never opened"
        )
    return place if place.is_dir() else None


def _address(model: str) -> str:
    """MLflow's address of a registered model."""
    if not model.startswith("models:/") and not _REGISTERED.fullmatch(model):
        raise UserError(
            f"--model {model!r}: should be NAME@ALIAS such as digits@staging, NAME/VERSION such as digits/3, "
            f"a `models:/` address, or a folder with a trained model such as results/models/gan"
        )
    return model if model.startswith("models:/") else f"models:/{model}"


def _written(write: Callable[[Path, np.ndarray], None], out: Path, images: np.ndarray) -> None:
    try:
        write(out, images)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _writer(out: Path, columns: int = 0) -> Callable[[Path, np.ndarray], None]:
    """What writes images to `out`, by its ending. columns: of a .png; 0 makes it as square as it can be."""
    if out.suffix == ".npy":
        return write_array
    if out.suffix == ".png":
        return lambda path, images: save_png(path, sheet(images, columns))
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
