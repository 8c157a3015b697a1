"""Draw images from a model, for people: behind `genforge sample`. Every PNG says where it came from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genforge import provenance
from genforge.config import NAME_RULE
from genforge.files import check_new_folder, read_json, replacing, replacing_folder, write_array
from genforge.pictures import columns_of, sheet, strip
from genforge.progress import Bar
from genforge.provenance import Provenance
from genforge.settings import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from genforge.models import Model

MODELS = Path("results", "models")  # of a project: a folder a trained recipe
TOGETHER = 250  # images that are drawn at once
REGISTERED = re.compile(r"[^@/]+@[^@/]+|[^@/]+/[0-9]+")  # name@alias or name/version


def draw(model: str, images: int, seed: int, out: Path, root: Path = Path(), label: str | None = None) -> None:
    """Write images 0 to `images - 1` of `seed` to `out`.

    A PNG carries its provenance as text, and from 64x64 up each image in it a watermark (`provenance.py`). An array has
    no place for text and is for programs: it holds the very bits that the judge would see.

    Args:
        model: `digits@staging`, `digits/3`, an MLflow URI (`models:/...`), a trained recipe of the project
            (`gan`), or a trained folder (`results/models/gan`).
        out: a `.png` (one grid), a `.npy` (uint8 (images, height, width, channels); points float32), or a folder that
            is new or empty (one PNG an image).
        label: of a conditional model, the one class to draw, by its name or its number; None: all, in their proportion.

    Raises:
        UserError: there is no such model or class, or nothing can be written like this.
    """
    if images < 1 or not 0 <= seed < 2**63:
        raise UserError(f"-n should be 1 or more and --seed 0 to 2^63 - 1, not {images} and {seed}")
    write = writer(out)
    said = replace(origin(model, root), seed=seed, label=label)
    # The version that was found, whatever its alias does now.
    source = source_of(f"models:/{said.model}/{said.version}" if said.version else model, root, label)
    parts = []
    with Bar(f"drawing from {model}", images, "images") as bar:
        for first in range(0, images, TOGETHER):
            parts.append(source(seed, min(TOGETHER, images - first), first))
            bar.advance(len(parts[-1]))
    drawn = np.concatenate(parts)
    write(provenance.mark(drawn, said) if out.suffix != ".npy" else drawn, said)


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
    write = writer(out, places)
    said = replace(origin(model, root), seed=seed, way="interpolation")
    with loaded(model, root) as drawing:
        images = drawing.between(seed, strips, places, to_seed)
    drawn = images.reshape(-1, *images.shape[2:])
    write(provenance.mark(drawn, said) if out.suffix != ".npy" else drawn, said)


def origin(model: str, root: Path) -> Provenance:
    """What the images of `model` say of where they came from, but for their seed and number. Arguments as of `draw`."""
    if place := trained_folder(model, root):
        from genforge.trained_folder import digest

        card = read_json(place / "model.json")
        if not isinstance(card, dict) or "exported" not in card:
            raise UserError(f"{place / 'model.json'} does not describe a model of genforge")
        return Provenance(str(card.get("name", place.name)), None, digest(place), 0, 0)
    from genforge.registry import origins

    return origins.origin(root, address(model, root))


def source_of(model: str, root: Path, label: str | None = None) -> Callable[[int, int, int], np.ndarray]:
    """What gives images of a model, uint8 (count, height, width, channels) or points, from seed, count and first.

    Raises:
        UserError: there is no such model, or class.
    """
    if label is not None or trained_folder(model, root):
        with loaded(model, root) as drawing:  # its weights are in memory from here on
            return lambda seed, count, first: drawing.draw(seed, count, first, labels_of_one(drawing, label, count))
    from genforge.registry import registry

    served = registry.load_model(root, address(model, root))
    return lambda seed, count, first: registry.draw(served, count, seed, first, TOGETHER)


def labels_of_one(model: Model, label: str | None, count: int) -> Tensor | None:
    """The label of one class, given by its name or its number, `count` times; None where none is asked for.

    Raises:
        UserError: the model was not taught labels, or has no such class.
    """
    if label is None:
        return None
    import torch

    if not model.classes:
        raise UserError(f"--label {label}: this model was trained without labels, and draws what it likes")
    names = [str(name) for name in model.card.get("classes") or range(model.classes)]
    if label not in names and not (label.isdecimal() and int(label) < model.classes):
        raise UserError(f"--label {label}: is no class of this model; {nearest(label, names)}")
    return torch.full((count,), names.index(label) if label in names else int(label))


@contextlib.contextmanager
def loaded(model: str, root: Path) -> Iterator[Model]:
    """The model itself, for what needs its networks, while the block lasts. Arguments as of `draw`."""
    import torch

    from genforge.catalog import target
    from genforge.models import load

    with folder_of(model, root) as folder:
        yield load(folder, target, "cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def folder_of(model: str, root: Path) -> Iterator[Path]:
    """Where the trained model lies on this machine; a registered one is brought here for the block."""
    if place := trained_folder(model, root):
        yield place
        return
    uri = address(model, root)
    from genforge.registry.registry import own_folder

    with own_folder(root, uri) as folder:
        yield folder


def trained_folder(model: str, root: Path) -> Path | None:
    """Where the trained model `model` lies, if it is one of this machine's: a folder, or a recipe of the project; None
    for what can only be registered. A folder of images named like a version (`mnist/3`, of the threes) is no model.

    Raises:
        UserError: something lies there that is no model.
    """
    of_recipe, place = root / MODELS / model, root / model
    if NAME_RULE.fullmatch(model) and of_recipe.is_dir() and not place.exists():
        return of_recipe
    if (place / "model.json").is_file():
        return place
    if place.exists() and not REGISTERED.fullmatch(model):
        raise UserError(
            f"{model}: is no trained model of genforge: that is a folder with model.json and weights.safetensors. "
            f"Other files (.pt, .pth, .ckpt, .pkl) may hold code, and are never opened. A registered model is named "
            f"with its alias or version, such as digits@staging or digits/3"
        )
    return None


def address(model: str, root: Path) -> str:
    """MLflow's address of a registered model.

    Args:
        root: the project, whose trained recipes are told where `model` is no name of a registered model.

    Raises:
        UserError: `model` is no name of one.
    """
    if model.startswith("models:/"):
        return model
    if not REGISTERED.fullmatch(model):
        trained = sorted(path.parent.name for path in (root / MODELS).glob("*/model.json"))
        here = f" ({nearest(model, trained)})" if trained else ""
        raise UserError(
            f"no model is called {model!r}: name a trained recipe of this project{here}, a registered model such as "
            f"digits@staging or digits/3, a `models:/` address, or a folder with a trained model such as "
            f"results/models/gan"
        )
    return f"models:/{model}"


def writer(out: Path, columns: int = 0) -> Callable[[np.ndarray, Provenance], None]:
    """What writes images to `out`, by its ending, with their provenance where there is a place for it. It raises
    UserError when that cannot be written.

    Args:
        columns: of a `.png`'s grid; 0 makes it as square as it can be.

    Raises:
        UserError: there is no such form, or something is there already.
    """
    if out.suffix not in ("", ".npy", ".png"):
        raise UserError(f"--out {out}: should end with .png or .npy, or be a folder")
    if not out.suffix:
        check_new_folder(out, "--out")

    def write(images: np.ndarray, said: Provenance) -> None:
        with _told_of(out):
            match out.suffix:
                case ".npy":
                    write_array(out, images)
                case ".png":
                    shown = replace(said, images=len(images), columns=columns_of(len(images), columns))
                    _write_png(out, sheet(images, columns), shown)
                case _:
                    _write_folder(out, images, said)

    return write


@contextlib.contextmanager
def _told_of(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _write_png(out: Path, picture: np.ndarray, said: Provenance) -> None:
    with replacing(out) as file:
        file.write(provenance.png(picture, said))


def _write_folder(out: Path, images: np.ndarray, said: Provenance) -> None:
    if images.dtype != np.uint8:
        raise UserError(f"--out {out}: points are no images of their own; name a .png (all as dots) or a .npy")
    digits = max(5, len(str(len(images) - 1)))
    with replacing_folder(out) as folder:
        for number, image in enumerate(images):
            (folder / f"{number:0{digits}d}.png").write_bytes(provenance.png(image, said.of(number)))


def draw_trajectory(
    model: str, images: int, moments: int, seed: int, out: Path, root: Path = Path(), label: str | None = None
) -> None:
    """Write how images 0 to `images` - 1 of `seed` come to be to the `.png` file `out`: for each a row of what is there
    after a step, and below it what the step expected. From 64x64 up each tile has the watermark.

    Raises:
        UserError: the model draws in one pass; or as `draw`.
    """
    if images < 1 or moments < 1 or not 0 <= seed < 2**63:
        raise UserError(
            f"-n and --trajectory should be 1 or more and --seed 0 to 2^63 - 1, not {images}, {moments} and {seed}"
        )
    if out.suffix != ".png":
        raise UserError(f"--out {out}: a trajectory is a picture; name a .png file")
    with loaded(model, root) as drawing:
        if drawing.shape.is_point:
            raise UserError(f"{model} draws points of the plane, whose way is not shown as a picture")
        ways = drawing.trajectory(seed, images, moments, labels_of_one(drawing, label, images))
    if ways is None:
        raise UserError(f"{model} draws an image in one pass, so that there is no way to be shown")
    tiles = ways.reshape(-1, *ways.shape[3:])
    said = replace(origin(model, root), seed=seed, label=label, way="trajectory", images=len(tiles))
    said = replace(said, columns=ways.shape[2])
    with _told_of(out):
        _write_png(out, strip(provenance.mark(tiles, said).reshape(ways.shape)), said)
