"""Draw from pictures that are given, for people: behind `genforge sample --from` and `genforge sample --inpaint`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from genforge import provenance
from genforge.files import read_array
from genforge.progress import Bar
from genforge.settings import UserError, nearest
from genforge.steps.draw import TOGETHER, labels_of_one, loaded, origin, writer

if TYPE_CHECKING:
    from genforge.config import DataSettings
    from genforge.contracts import ImageShape
    from genforge.models import Model

DRAWN_FROM_HERE = 128  # gray level of a mask from which a pixel is drawn anew
HALVES = {  # masks that have a name: rows and columns that are drawn anew, as shares of the side
    "top": ((0, 0.5), (0, 1)),
    "bottom": ((0.5, 1), (0, 1)),
    "left": ((0, 1), (0, 0.5)),
    "right": ((0, 1), (0.5, 1)),
    "middle": ((0.25, 0.75), (0.25, 0.75)),
}
HIDDEN = 128  # gray level under which a picture's hole is shown


@dataclass(frozen=True)
class Request:
    """What is wanted of the pictures.

    pictures: an image file, a folder of them, or a uint8 .npy array (n, height, width, channels).
    mask: inpainting; a name of `HALVES`, or an image file whose white is drawn anew and whose black is kept. None: the
        whole picture may change.
    strength: 0 to 1, the share of the sampler's steps that are made: how much of what is not kept may change.
    label: of a conditional model, the class of what is drawn; None: all, in their proportion.
    """

    pictures: Path
    mask: str | None = None
    strength: float = 1.0
    label: str | None = None

    def check(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(f"--strength {self.strength:g}: should be above 0 and at most 1, all of the way")


def edit(model: str, request: Request, images: int, seed: int, out: Path, root: Path = Path()) -> None:
    """Write `images` images drawn from the pictures to `out`: image i from picture i modulo how many there are.

    In a `.png` each picture stands first in its row, what is left of it in inpainting second, and then what was drawn;
    of one picture alone all that follows one another in a square.

    Args:
        model, seed, out: as in `genforge.steps.draw.draw`. The model is one of a denoiser.

    Raises:
        UserError: the model does not draw by denoising; there is no such picture or mask; nothing can be written.
    """
    if images < 1 or not 0 <= seed < 2**63:
        raise UserError(f"-n should be 1 or more and --seed 0 to 2^63 - 1, not {images} and {seed}")
    request.check()
    with loaded(model, root) as drawing:
        check_denoiser(drawing, model)
        if drawing.shape.is_point:
            raise UserError(f"{model} draws points of the plane, and what is gone on from or filled in is a picture")
        settings = _data_settings(root)
        pictures = read_pictures(request.pictures, drawing.shape, settings)
        hole = None if request.mask is None else read_mask(request.mask, drawing.shape, settings)
        images_a_picture = -(-images // len(pictures))
        shown = 1 if hole is None else 2
        columns = 0 if len(pictures) == 1 else shown + images_a_picture
        write = writer(out, columns)
        drawn = _draw(drawing, request, pictures, hole, images, seed)
    way = "image to image" if hole is None else "inpainting"
    said = replace(origin(model, root), seed=seed, label=request.label, way=way)
    if out.suffix != ".npy":
        drawn = provenance.mark(drawn, said)  # and not what it was drawn from
    write(_beside(pictures, hole, drawn) if out.suffix == ".png" else drawn, said)


def check_denoiser(model: Model, name: str, what: str = "a picture can be gone on from") -> None:
    """Raises UserError unless the model draws by denoising, step by step; `what` only then can be done."""
    from genforge.samplers.diffusion import DiffusionSampler

    if not isinstance(model.sampler, DiffusionSampler):
        raise UserError(
            f"{name} draws an image in one pass; {what} only with a denoiser, such as a model of the recipes ddpm, "
            f"ddim, edm, flow-matching, conditional-edm or few-step"
        )


def read_pictures(path: Path, shape: ImageShape, settings: DataSettings) -> np.ndarray:
    """The pictures at `path` as the model's data would hold them, uint8 (n, height, width, channels), n at least 1."""
    if path.suffix == ".npy":
        found = read_array(path)
        found = found[..., None] if found.ndim == 3 and shape.channels == 1 else found
        if found.dtype != np.uint8 or found.shape[1:] != (shape.height, shape.width, shape.channels) or not len(found):
            raise UserError(
                f"{path} holds {found.dtype} {found.shape}; it should hold uint8 (n, {shape.height}, {shape.width}, "
                f"{shape.channels}), what the model draws"
            )
        return found
    if not path.exists():
        raise UserError(f"{path} does not exist; give an image, a folder of images or a uint8 .npy array")
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no files; give an image, a folder of images or a uint8 .npy array")
    return np.stack([_decoded(file, shape, 1 if shape.channels == 1 else 3, settings) for file in files])


def read_mask(mask: str, shape: ImageShape, settings: DataSettings) -> np.ndarray:
    """Which pixels are drawn anew: bool (height, width).

    Raises:
        UserError: there is no such mask, or it leaves nothing to draw or nothing to keep.
    """
    hole = np.zeros((shape.height, shape.width), bool)
    if mask in HALVES:
        (top, bottom), (left, right) = HALVES[mask]
        rows, columns = (
            slice(round(a * side), round(b * side))
            for a, b, side in ((top, bottom, shape.height), (left, right, shape.width))
        )
        hole[rows, columns] = True
        return hole
    if not Path(mask).exists():
        raise UserError(f"--mask {mask}: is no file and no name of a mask; {nearest(mask, list(HALVES))}")
    hole = _decoded(Path(mask), shape, 1, settings)[..., 0] >= DRAWN_FROM_HERE
    if hole.all() or not hole.any():
        what = "white, so that nothing is kept" if hole.all() else "black, so that nothing is drawn"
        raise UserError(f"--mask {mask}: is all {what}; white is drawn anew and black is kept")
    return hole


def _decoded(file: Path, shape: ImageShape, channels: Literal[1, 3], settings: DataSettings) -> np.ndarray:
    """An image file by the same rules as the data, uint8 (height, width, channels)."""
    from genforge.data.decoding import Broken, Rules, decode, read

    if shape.height != shape.width:
        raise UserError(f"the model's images are {shape.width} x {shape.height}; give a .npy array of that shape")
    rules = Rules(shape.height, True, channels, settings.fit, settings.max_pixels, settings.max_bytes)
    try:
        _, image = decode(read(file, settings.max_bytes), rules)
    except Broken as broken:
        raise UserError(f"{file} cannot be read as an image: {broken.reason}: {broken.detail}") from None
    return np.asarray(image).reshape(shape.height, shape.width, channels)


def _data_settings(root: Path) -> DataSettings:
    """The project's, where there is one."""
    from genforge.config import DataSettings, load

    return load(root / "params.yaml").data if (root / "params.yaml").is_file() else DataSettings()


def _draw(
    model: Model, request: Request, pictures: np.ndarray, hole: np.ndarray | None, images: int, seed: int
) -> np.ndarray:
    import torch

    from genforge.contracts import to_network, to_pixels
    from genforge.networks.denoiser import Denoiser
    from genforge.samplers.diffusion import DiffusionSampler
    from genforge.samplers.editing import covering
    from genforge.samplers.editing import edit as edit_tensors

    assert isinstance(model.sampler, DiffusionSampler) and isinstance(model.network, Denoiser)
    given = to_network(torch.from_numpy(pictures))
    keep = None if hole is None else ~torch.from_numpy(hole)
    # Without anything left of the picture but what is kept, its hole says nothing either.
    whole = hole is not None and request.strength == 1
    sigma = None if whole else covering(model.sampler, model.network, request.strength)
    labels = labels_of_one(model, request.label, images)
    parts = []
    with Bar("drawing from pictures", images, "images") as bar:
        for part in model.request(seed, images, 0, labels).split(TOGETHER):
            of_pictures = given[part.indices % len(given)]
            parts.append(to_pixels(edit_tensors(model.sampler, model.network, part, of_pictures, keep, sigma)).cpu())
            bar.advance(len(parts[-1]))
    return torch.cat(parts).numpy()


def _beside(pictures: np.ndarray, hole: np.ndarray | None, drawn: np.ndarray) -> np.ndarray:
    """Each picture, what is left of it, and what was drawn from it, one after another."""
    covered = pictures if hole is None else np.where(hole[..., None], np.uint8(HIDDEN), pictures)
    rows, most = [], -(-len(drawn) // len(pictures))
    for number, picture in enumerate(pictures):
        own = drawn[number :: len(pictures)]
        missing = np.zeros((most - len(own), *picture.shape), np.uint8)
        rows += [picture[None], *([] if hole is None else [covered[number][None]]), own, missing]
    return np.concatenate(rows)
