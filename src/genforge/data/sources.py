"""Where images come from. `ingest` brings every source to one of two forms in `data/raw`:

- arrays: `<part>-images.npy` uint8 (n, h, w, c) (points: float32 (n, 1, 1, 2)), `<part>-labels.npy` int64 (n,) where
  there are labels, and `<part>-factors.npy` float32 (n, k) where images were drawn;
- a listing of image files, `listing.parquet` (path, label): the files stay where they are and are not copied. Files of
  an archive are unpacked into `files`, and their paths are their names in the archive.

A part is `all`, or `train` and `test` for a source that has an official test split. `source.json` says which form it
is, the parts and how many each holds, and the names of classes and factors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genforge.config import DataSettings
from genforge.data import points, tins, torchvision_door
from genforge.data.archives import SUFFIXES, Limits, is_archive, one_folder, unpack
from genforge.data.image_folder import list_folder
from genforge.files import write_array, write_json
from genforge.progress import Bar, say
from genforge.randomness import derive
from genforge.settings import UserError

TINS_AT_ONCE = 1024
FILES = "files"  # in data/raw: what was unpacked


@dataclass(frozen=True)
class Places:
    """Where a source may read and keep files, and the run's seed (for what is drawn)."""

    folder: Path
    downloads: Path
    seed: int


@dataclass
class Source:
    """What `source.json` says."""

    form: str  # arrays or listing
    parts: dict[str, int]
    classes: list[str] = field(default_factory=list)
    factors: list[str] = field(default_factory=list)


def ingest(settings: DataSettings, places: Places, out: Path) -> None:
    """Fill the folder `out` from the source that the settings name.

    Raises:
        UserError: the source's folder or files are missing or damaged, or cannot be downloaded.
    """
    source = _INGEST[settings.source](settings, places, out)
    document: dict[str, Any] = {"source": settings.source, **vars(source)}
    write_json(out / "source.json", document)


def _digits(settings: DataSettings, places: Places, out: Path) -> Source:
    """The 1,797 handwritten digits inside scikit-learn, 8x8 gray. Their levels 0..16 are stretched to 0..255.

    Its file is read where it lies, 64 levels and the label a line: to import scikit-learn for it takes seconds.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.submodule_search_locations, "scikit-learn is installed with genforge"
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    images = np.round(table[:, :-1].reshape(-1, 8, 8, 1) * (255.0 / 16.0)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    return _write_parts(out, {"all": torchvision_door.LabelledImages(images, labels, tuple("0123456789"))})


def _torchvision(settings: DataSettings, places: Places, out: Path) -> Source:
    return _write_parts(out, torchvision_door.load(settings.source, places.folder, places.downloads))


def _write_parts(out: Path, parts: dict[str, torchvision_door.LabelledImages]) -> Source:
    for part, found in parts.items():
        write_array(out / f"{part}-images.npy", found.images)
        write_array(out / f"{part}-labels.npy", found.labels.astype(np.int64))
    classes = next(iter(parts.values())).classes
    return Source("arrays", {part: len(found.images) for part, found in parts.items()}, list(classes))


def _image_folder(settings: DataSettings, places: Places, out: Path) -> Source:
    folder = places.folder
    listing = _unpacked(settings, folder, out / FILES) if folder.is_file() else list_folder(folder)
    listing.write_parquet(out / "listing.parquet")
    return Source("listing", {"all": len(listing)}, listing["label"].drop_nulls().unique().sort().to_list())


def _unpacked(settings: DataSettings, archive: Path, files: Path) -> pl.DataFrame:
    """The listing of an archive, whose images are brought into the folder `files`."""
    if not is_archive(archive):
        raise UserError(
            f"data.folder: {str(archive)!r} is neither a folder nor an archive ({', '.join(SUFFIXES)}); name "
            f"one of them"
        )
    limits = Limits(
        settings.max_bytes, settings.max_unpacked_bytes, settings.max_unpacked_files, settings.max_unpacked_ratio
    )
    unpacked = unpack(archive, files, limits)
    for note in unpacked.notes():
        say(f"{archive.name}: {note}")
    way = one_folder(files)
    listing = list_folder(files / way, name=str(archive))
    return listing.with_columns(path=pl.lit(way) + pl.col("path"))


def _tins(settings: DataSettings, places: Places, out: Path) -> Source:
    side, count = settings.image_size or tins.DEFAULT_SIDE, settings.count
    factors = tins.draw_factors(count, derive(places.seed, "tins"), settings.nuisance)
    write_array(out / "all-factors.npy", factors)
    images = np.lib.format.open_memmap(out / "all-images.npy", "w+", np.uint8, (count, side, side, 3))
    with Bar("drawing tins", count, "tins") as bar:
        for start in range(0, count, TINS_AT_ONCE):
            drawn = tins.draw(factors[start : start + TINS_AT_ONCE], side)
            images[start : start + len(drawn)] = drawn
            bar.advance(len(drawn))
    images.flush()
    return Source("arrays", {"all": count}, factors=list(tins.FACTORS))


def _points(settings: DataSettings, places: Places, out: Path) -> Source:
    drawn = points.draw(settings.shape, settings.count, settings.noise, derive(places.seed, "points", settings.shape))
    write_array(out / "all-images.npy", drawn.points[:, None, None, :])
    classes = list(map(str, range(drawn.modes)))
    if classes:
        write_array(out / "all-labels.npy", drawn.labels)
    return Source("arrays", {"all": settings.count}, classes)


_INGEST: dict[str, Callable[[DataSettings, Places, Path], Source]] = {
    "digits": _digits,
    "mnist": _torchvision,
    "fashion_mnist": _torchvision,
    "kmnist": _torchvision,
    "cifar10": _torchvision,
    "image_folder": _image_folder,
    "tins": _tins,
    "points": _points,
}
