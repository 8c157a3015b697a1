"""All inputs of a source, decoded and brought to one size: the first half of `prepare`.

Pixels wait in a scratch file, in the order of inputs, until their order in the splits is known.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from genforge.config import DataSettings
from genforge.data.decoding import Rules, content_digest, draw_lot, fitted
from genforge.data.decoding_pool import Decoders
from genforge.data.decoding_worker import FACTS, Columns, Job
from genforge.files import digest_bytes, read_array
from genforge.progress import Bar
from genforge.settings import UserError
from genforge.shapes import SMALLEST, ImageShape

GRAY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes without colour
AT_ONCE = 512  # images of an array that are brought to size together
PROBES = 64  # headers read to learn the usual size
SIZES_SHOWN = 5  # in an error
OTHER_SIZE = "another size"  # a reason for quarantine
MODES = {1: "L", 2: "point", 3: "RGB"}  # of an array's images, by channels
SCHEMA = {
    "digest": pl.Binary,
    "bytes": pl.Int64,
    "width": pl.Int64,
    "height": pl.Int64,
    "mode": pl.String,
    "content": pl.Binary,
    "lot": pl.Binary,
    "reason": pl.String,
    "detail": pl.String,
}


@dataclass
class Gathered:
    """All inputs.

    inputs: a row each: row, path, part, label (name or null), and the columns of SCHEMA (see `decoding_worker.FACTS`).
    pixels: uint8 (n, side, side, 1 or 3), in the same order; those of broken inputs mean nothing. Of points float32
        (n, 1, 1, 2), their coordinates.
    channels: how many of the stored ones are wanted: the first of three, where all images turned out to be gray.
    factors: float32 (n, k) of drawn images, in the same order, or None.
    """

    inputs: pl.DataFrame
    pixels: np.ndarray
    channels: int
    factors: np.ndarray | None = None


def with_room(path: Path, size: int) -> Path:
    """The file, with `size` bytes of disk set aside for it, so that writing it as memory cannot meet a full disk.

    Several writers to one file wait for each other; several writers to one mapped memory do not.
    """
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


def gather_files(
    listed: Path, folder: Path, scratch: Path, settings: DataSettings, seed: int, processes: int
) -> Gathered:
    """Every file that the table `listed` names (columns path and label), decoded into the file `scratch`.

    Raises:
        UserError: images have several sizes and no size is set, or one that networks do not take.
    """
    channels = settings.channels or 3
    found: dict[int, Columns] = {}
    with Decoders(processes) as decoders:
        listing = pl.read_parquet(listed)  # while they start
        paths = listing["path"].to_list()
        side = settings.image_size or _usual_side(decoders, paths, folder, scratch, settings)
        limits = (settings.max_pixels, settings.max_bytes, settings.max_seconds)
        rules = Rules(side, settings.image_size is not None, channels, settings.fit, *limits)
        with_room(scratch, len(paths) * side * side * channels)
        with Bar("preparing", len(paths), "images") as bar:
            for start, columns in decoders.decode(Job(str(folder), rules, seed, str(scratch)), paths):
                found[start] = columns
                bar.advance(len(columns[0]))
    ordered = [found[start] for start in sorted(found)]
    facts = {fact: list(chain.from_iterable(chunk[place] for chunk in ordered)) for place, fact in enumerate(FACTS)}
    inputs = _table(listing["path"], "all", listing["label"], facts).with_row_index("row")
    inputs = _without_other_sizes(inputs, side, settings.max_broken_share)
    pixels: np.ndarray = np.memmap(scratch, np.uint8, "r", shape=(len(paths), side, side, channels))
    modes = inputs.filter(pl.col("reason") == "")["mode"].unique()
    if settings.channels is None and modes.is_in(GRAY_MODES).all():
        channels = 1
    return Gathered(inputs, pixels, channels)


def _usual_side(decoders: Decoders, paths: list[str], folder: Path, scratch: Path, settings: DataSettings) -> int:
    """The side that most images have, by the headers of some that are evenly spread over the listing. A worker reads
    them: no file from outside is opened in this process."""
    sizes: Counter[tuple[int, int]] = Counter()
    probes = paths[:: max(1, len(paths) // PROBES)]
    limits = (settings.max_pixels, settings.max_bytes, settings.max_seconds)
    with_room(scratch, len(probes) * SMALLEST**2)
    job = Job(str(folder), Rules(SMALLEST, False, 1, settings.fit, *limits), 0, str(scratch))
    for _, columns in decoders.decode(job, probes):
        found = dict(zip(FACTS, columns, strict=True))
        sizes.update(
            (width, height)
            for width, height, reason in zip(found["width"], found["height"], found["reason"], strict=True)
            if not reason
        )
    scratch.unlink()
    if not sizes:
        return SMALLEST  # nothing opens: the run goes on, to find out why
    width, height = max(sizes, key=lambda size: (sizes[size], size))
    if width != height:
        raise UserError(
            f"images are {_listed(sizes)}; networks take square images: set data.image_size, and data.fit to crop, pad "
            f"or stretch"
        )
    ImageShape(3, height, width).check()
    return width


def _without_other_sizes(inputs: pl.DataFrame, side: int, most: float) -> pl.DataFrame:
    """Inputs of another size, where no resizing was asked for, are broken; too many of them are the user's mistake.

    They are those without content. A few are expected: damage to a header changes the size that it declares.
    """
    other = (pl.col("reason") == "") & (pl.col("content").bin.size() == 0)
    good = inputs.filter(pl.col("reason") == "")
    if len(good.filter(other)) > most * len(inputs):
        sizes = Counter(zip(good["width"], good["height"], strict=True))
        raise UserError(f"images have {len(sizes)} sizes: {_listed(sizes)}; set data.image_size to bring them to one")
    found = pl.format("{} x {}; the others are {} x {}", "width", "height", pl.lit(side), pl.lit(side))
    return inputs.with_columns(
        detail=pl.when(other).then(found).otherwise("detail"),
        reason=pl.when(other).then(pl.lit(OTHER_SIZE)).otherwise("reason"),
    )


def _listed(sizes: Counter[tuple[int, int]]) -> str:
    """The commonest sizes, with how many images have each."""
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{width} x {height} ({count})" for (width, height), count in common[:SIZES_SHOWN])
    return listed + (f" and {len(common) - SIZES_SHOWN} more" if len(common) > SIZES_SHOWN else "")


def gather_arrays(raw: Path, source: dict[str, Any], scratch: Path, settings: DataSettings, seed: int) -> Gathered:
    """The arrays that `ingest` left in `raw`, brought to the size and channels asked for in the file `scratch`.

    Raises:
        UserError: the images have a shape that networks do not take.
    """
    images = {part: read_array(raw / f"{part}-images.npy", memory_map=True) for part in source["parts"]}
    _, height, width, own_channels = next(iter(images.values())).shape
    if settings.image_size is None and height != width:
        raise UserError(f"images are {width} x {height}; networks take square images: set data.image_size")
    side, channels = settings.image_size or height, settings.channels or own_channels
    ImageShape(channels, side, side).check()
    shape = (sum(map(len, images.values())), side, side, channels)
    pixels: np.ndarray = np.memmap(scratch, ImageShape(channels, side, side).stored, "w+", shape=shape)
    tables: list[pl.DataFrame] = []
    done = 0
    with Bar("preparing", len(pixels), "images") as bar:
        for part, array in images.items():
            digests: list[bytes] = []
            contents: list[bytes] = []
            for start in range(0, len(array), AT_ONCE):
                block = np.ascontiguousarray(array[start : start + AT_ONCE])
                ready = _brought_to(block, side, channels, settings.fit)
                pixels[done : done + len(ready)] = ready
                done += len(ready)
                digests += [bytes.fromhex(digest_bytes(image.tobytes())) for image in block]
                contents += [content_digest(image.tobytes(), channels) for image in ready]
                bar.advance(len(ready))
            count = len(array)
            columns = {
                "digest": digests,
                "bytes": [array[0].size] * count,
                "width": [width] * count,
                "height": [height] * count,
                "mode": [MODES[own_channels]] * count,
                "content": contents,
                "lot": [draw_lot(content, seed) for content in contents],
                "reason": [""] * count,
                "detail": [""] * count,
            }
            names = [f"{part}/{number:07d}" for number in range(count)]
            tables.append(_table(pl.Series(names), part, _label_names(raw, part, source, count), columns))
    factors = None
    if source["factors"]:
        factors = np.concatenate([read_array(raw / f"{part}-factors.npy") for part in images])
    return Gathered(pl.concat(tables).with_row_index("row"), pixels, channels, factors)


def _label_names(raw: Path, part: str, source: dict[str, Any], count: int) -> pl.Series:
    """The name of each image's class; nulls where there are no labels."""
    if not source["classes"]:
        return pl.Series([None] * count, dtype=pl.String)
    return pl.Series([source["classes"][label] for label in read_array(raw / f"{part}-labels.npy")], dtype=pl.String)


def _brought_to(images: np.ndarray, side: int, channels: int, fit: str) -> np.ndarray:
    """uint8 (n, h, w, c) at another size and number of channels, by the rules that files go by."""
    if images.shape[1:] == (side, side, channels):
        return images
    if images.shape[1:3] == (side, side) and channels == 3:
        return images.repeat(3, axis=3)
    mode = "L" if channels == 1 else "RGB"
    squeezed = images[..., 0] if images.shape[3] == 1 else images
    ready = [np.asarray(fitted(Image.fromarray(image), side, fit).convert(mode)) for image in squeezed]
    return np.stack(ready).reshape(len(images), side, side, channels)


def _table(paths: pl.Series, part: str, labels: pl.Series, columns: dict[str, list[Any]]) -> pl.DataFrame:
    """Rows of inputs."""
    facts = pl.DataFrame({name: columns[name] for name in SCHEMA}, schema=SCHEMA)
    return facts.with_columns(path=paths, part=pl.lit(part), label=labels)
