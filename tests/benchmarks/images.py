"""The images that benchmarks are timed on: `mnist`, `cifar`, or a path.

`mnist` and `cifar` are looked for in the folder `--files`, and are brought once, through `ingest` and `prepare`, to
`.genforge/benchmarks`. Where they are not, random images of their number and size take their place, and every line says
so: a step takes as long on these, but a FID on them means nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from genforge.config import DataSettings
from genforge.data.loading import Prepared
from genforge.data.preparation import prepare
from genforge.data.sources import Places, ingest
from genforge.files import replacing_folder, write_array, write_json
from genforge.randomness import derive

SCRATCH = Path(__file__).parents[2] / ".genforge" / "benchmarks"
SHAPES = {"mnist": (60_000, 28, 28, 1), "cifar": (50_000, 32, 32, 3)}
PLACES = {  # under --files, the first that is there
    "mnist": ("mnist", "MNIST/raw"),
    "cifar": ("cifar10", "cifar10-jpeg/train", "cifar10-jpeg/cifar10-train.tar.gz", "cifar-10-batches-py"),
}


def add_arguments(parser: argparse.ArgumentParser, default: str = "mnist") -> None:
    parser.add_argument("--data", default=default, help="mnist, cifar, or a folder: prepared, or with images")
    parser.add_argument("--size", type=int, default=None, help="side in pixels; left out: the images' own")
    parser.add_argument(
        "--files", type=Path, default=Path("data/incoming"), help="folder that holds mnist/ or cifar10/ (images, files)"
    )
    parser.add_argument("--count", type=int, default=None, help="of random images in place of those that are missing")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="where images are prepared")


def prepared(arguments: argparse.Namespace) -> tuple[Prepared, str]:
    """The prepared folder, and what to call it: such as `mnist`, or `mnist (random)` where there is none here."""
    data, size = arguments.data, arguments.size
    if data not in SHAPES and (Path(data) / "card.json").is_file():
        return Prepared.open(Path(data)), Path(data).name
    settings, folder = source_of(data, size, arguments.files)
    name = data if data not in SHAPES or settings is not None else f"{data} (random)"
    key = "-".join(
        filter(None, [Path(data).name, str(size or ""), "" if settings else f"random{arguments.count or ''}"])
    )
    if data not in SHAPES:
        key += f"-{derive(0, str(folder.resolve())):x}"
    place = arguments.scratch / "data" / key
    if not (place / "card.json").is_file():
        with replacing_folder(place) as out:
            raw = place.with_name(f"{place.name}-raw")
            with replacing_folder(raw) as listing:
                if settings is None:
                    settings = DataSettings(source="digits", image_size=size)
                    _draw(listing, data, arguments.count)
                else:
                    ingest(settings, Places(folder, arguments.scratch / "downloads", 0), listing)
            prepare(raw, folder, out, settings, 0)
    return Prepared.open(place), name


def source_of(data: str, size: int | None, files: Path) -> tuple[DataSettings | None, Path]:
    """How to ingest the data and where from; None where there is nothing to ingest."""
    if data == "digits":
        return DataSettings(name="digits", source="digits"), files
    if data not in SHAPES:
        return DataSettings(source="image_folder", folder=data, image_size=size), Path(data)
    for place in PLACES[data]:
        if (files / place).exists():
            is_files = data == "mnist" or place.endswith("-py")
            source = {"mnist": "mnist", "cifar": "cifar10"}[data] if is_files else "image_folder"
            return DataSettings(source=source, folder=str(files / place), image_size=size), files / place  # type: ignore[arg-type]
    return None, files


def _draw(raw: Path, data: str, count: int | None) -> None:
    """As `ingest` leaves arrays."""
    shape = (count or SHAPES[data][0], *SHAPES[data][1:])
    random = np.random.default_rng(0)
    images = random.integers(0, 256, shape, np.uint8)
    write_array(raw / "all-images.npy", images)
    write_array(raw / "all-labels.npy", random.integers(0, 10, len(images)))
    classes = [str(number) for number in range(10)]
    write_json(
        raw / "source.json", {"form": "arrays", "parts": {"all": len(images)}, "classes": classes, "factors": []}
    )


def as_jpegs(data: Prepared, folder: Path, splits: Sequence[str] = ("train",)) -> Path:
    """Images as JPEG files, one folder a class: what a script that reads image files is given."""
    count = sum(data.count(split) for split in splits)
    place = folder / f"jpegs-{data.digest[:12]}-{count}"
    if not place.is_dir():
        with replacing_folder(place) as out:
            for split in splits:
                images, labels = data.images(split), data.labels(split)
                for index, image in enumerate(images):
                    name = "all" if labels is None else data.classes[labels[index]]
                    (out / name).mkdir(exist_ok=True)
                    pixels = image[..., 0] if image.shape[-1] == 1 else image
                    Image.fromarray(pixels).save(out / name / f"{split}-{index:06d}.jpg", quality=92)
    return place
