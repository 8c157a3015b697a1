"""From raw inputs to arrays that are ready to train on, and the account of what became of every input.

`data/prepared` holds for each split `<split>-images.npy` uint8 (n, side, side, channels) (points: float32 (n, 1, 1,
2)), `<split>-labels.npy` int64 (n,) where there are labels, and `<split>-factors.npy` float32 (n, k) where images were
drawn; and for all of them `manifest.parquet` (a row an input), `card.json` and `samples.png`.

Broken inputs go to quarantine with their reason. Everything here is a function of contents, settings and seed: the same
images under other names or in another order give the same arrays, bit for bit. Memory holds a chunk of images
a process.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genforge.config import DataSettings
from genforge.cores import cores
from genforge.data import card
from genforge.data.gathering import Gathered, gather_arrays, gather_files, with_room
from genforge.data.sources import FILES
from genforge.data.splitting import KEPT, QUARANTINED, SPLITS, with_splits, with_verdicts
from genforge.files import digest_array, digest_bytes, digest_json, read_array, read_json, write_array, write_json
from genforge.settings import UserError

AT_ONCE = 128  # images that are copied together, few enough to stay in a core's cache


def prepare(
    raw: Path,
    folder: Path,
    out: Path,
    settings: DataSettings,
    seed: int,
    least_test: int = 0,
    processes: int | None = None,
) -> None:
    """Fill the folder `out`.

    Args:
        raw: as `ingest` left it.
        folder: where listed files lie, unless they were unpacked into `raw`; not read for sources of arrays.
        settings: what is done to images, and how they are split.
        seed: of the split.
        least_test: images that the test split must hold, because the judge needs as many.
        processes: that decode; None: one a core.

    Raises:
        UserError: too much is broken; sizes differ and no size is set; the shape is none that networks take; a class or
            a split is too small.
    """
    source = read_json(raw / "source.json")
    scratch = out / "scratch.bin"
    processes = processes or cores()
    if source["form"] == "listing":
        folder = raw / FILES if (raw / FILES).is_dir() else folder
        gathered = gather_files(raw / "listing.parquet", folder, scratch, settings, seed, processes)
    else:
        gathered = gather_arrays(raw, source, scratch, settings, seed)
    manifest = with_verdicts(gathered.inputs)
    _check_broken(manifest, settings.max_broken_share)
    manifest = with_splits(manifest, settings.validation, settings.test)
    _check_test(manifest, least_test)

    present = set(manifest.filter(verdict=KEPT)["label"].drop_nulls().unique())
    classes = [name for name in source["classes"] if name in present]
    ordered = {split: _in_order(manifest, split) for split in SPLITS}
    rows = {split: chosen["row"].to_numpy().astype(np.int64) for split, chosen in ordered.items()}
    with ThreadPoolExecutor(2) as beside:  # the table is compressed while images are copied
        table = beside.submit(_write_manifest, out / "manifest.parquet", manifest)
        paths = {out / f"{split}-images.npy": rows[split] for split in SPLITS}
        points = gathered.pixels.dtype != np.uint8
        sums = _copy_points(gathered, paths) if points else _copy_images(gathered, paths, processes)
        emptied = beside.submit(_remove, scratch)
        digests = {split: _write_others(out, split, ordered[split], rows[split], gathered, classes) for split in SPLITS}
        _write_samples(out, bool(classes))
        _write_card(out, manifest, digests, sums, gathered, classes, source, settings, seed)
        table.result()
        emptied.result()


def _remove(scratch: Path) -> None:
    """Give back the room of pixels that nobody looks at again. They are still mapped, so emptying the file does it."""
    os.truncate(scratch, 0)
    scratch.unlink()


def _write_manifest(path: Path, manifest: pl.DataFrame) -> None:
    manifest.select(
        "path",
        pl.col("digest", "content").bin.encode("hex").replace("", None),
        "bytes",
        "width",
        "height",
        "mode",
        "label",
        "split",
        "verdict",
        "reason",
        "detail",
    ).write_parquet(path)


def _write_card(
    out: Path,
    manifest: pl.DataFrame,
    digests: dict[str, str],
    sums: Sums,
    gathered: Gathered,
    classes: list[str],
    source: dict[str, Any],
    settings: DataSettings,
    seed: int,
) -> None:
    """`card.json`. The digest is of what training sees: shape, classes, each split in its order."""
    height, width = gathered.pixels.shape[1:3]
    shape = {"channels": gathered.channels, "height": height, "width": width}
    document: dict[str, Any] = {
        "name": settings.name,
        "digest": digest_json([shape, classes, [digests[split] for split in SPLITS]]),
        "shape": shape,
        "classes": classes,
        "factors": source["factors"],
        **card.counts(manifest, classes),
        "empty_classes": [name for name in source["classes"] if name not in classes],
        **card.moments(sums.totals, sums.squares, sums.count * height * width, 1.0 if width == 1 else 255.0),
        "seed": seed,
        "settings": settings.model_dump(),
    }
    write_json(out / "card.json", document)


def _write_samples(out: Path, labelled: bool) -> None:
    images = read_array(out / "train-images.npy", memory_map=True)
    labels = read_array(out / "train-labels.npy") if labelled else None
    points = images.dtype != np.uint8
    picture = card.sample_scatter(images, labels) if points else card.sample_grid(images, labels)
    picture.save(out / "samples.png", compress_level=1)


def _check_broken(manifest: pl.DataFrame, most: float) -> None:
    broken = manifest.filter(verdict=QUARANTINED)
    if len(broken) > most * len(manifest):
        counts = (
            broken.group_by("reason")
            .agg(pl.len(), pl.col("path").first(), pl.col("detail").first())
            .sort("len", descending=True)
        )
        lines = [f"  {reason}: {n}, such as {path!r} ({detail})" for reason, n, path, detail in counts.iter_rows()]
        raise UserError(
            f"{len(broken)} of {len(manifest)} inputs are broken, more than data.max_broken_share = {most} allows:\n"
            + "\n".join(lines)
            + "\nmend or remove them, or raise data.max_broken_share"
        )


def _check_test(manifest: pl.DataFrame, least: int) -> None:
    count = len(manifest.filter(split="test"))
    if count < least:
        smaller = f"set evaluation.images to {count} or fewer" if count >= 50 else "add images"
        raise UserError(
            f"the test split holds {count} images, but evaluation.images is {least}, and the floor of every comparison "
            f"is as many held-out real images; {smaller}, or raise data.test"
        )


@dataclass
class Sums:
    """Of the images that are learnt from: how many they are, and for each channel the exact sums of levels and of
    squared levels; of points, the sums of coordinates and of their squares."""

    count: int
    totals: np.ndarray
    squares: np.ndarray


def _in_order(manifest: pl.DataFrame, split: str) -> pl.DataFrame:
    """Row, content and label of the images of a split, in the order of their contents' digests: as good as by chance,
    so that the first few are like the rest. In the order of lots they would be of few classes: how many lots of a class
    a split has, and so where they begin, is another number for each."""
    return manifest.filter(split=split).select("row", "content", "label").sort("content")


def _write_others(
    out: Path, split: str, ordered: pl.DataFrame, rows: np.ndarray, gathered: Gathered, classes: list[str]
) -> str:
    """Write a split's arrays beside its images; the digest of the split's contents, images too."""
    digests = [b"".join(ordered["content"].to_list())]
    if classes:
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[name] for name in ordered["label"]], np.int64)
        write_array(out / f"{split}-labels.npy", labels)
        digests.append(labels.tobytes())
    if gathered.factors is not None:
        factors = gathered.factors[rows]
        write_array(out / f"{split}-factors.npy", factors)
        digests.append(digest_array(factors).encode())
    return digest_bytes(*digests)


def _copy_images(gathered: Gathered, rows_of: dict[Path, np.ndarray], processes: int) -> Sums:
    """Write to each path the images of its rows; the sums over the first of them."""
    stored, channels = gathered.pixels, gathered.channels
    height, width = stored.shape[1:3]
    size = height * width * channels
    images = [_images_in(path, (len(rows), height, width, channels)) for path, rows in rows_of.items()]
    rows_in = list(rows_of.values())
    blocks = [(number, start) for number, rows in enumerate(rows_in) for start in range(0, len(rows), AT_ONCE)]

    def copy(first: int) -> tuple[np.ndarray, np.ndarray]:
        """Every so manieth block, and the sums over those of the first path, (size,) each."""
        squared = np.empty((AT_ONCE, size), np.uint16)
        totals, squares = np.zeros((2, size), np.int64)
        for number, start in blocks[first::processes]:
            chosen = rows_in[number][start : start + AT_ONCE]
            block = images[number][start : start + AT_ONCE]
            if channels == stored.shape[3]:
                np.take(stored, chosen, axis=0, out=block, mode="clip")
            else:
                block[:] = stored[chosen][..., :channels]
            if number == 0:
                flat = block.reshape(len(block), size)
                totals += flat.sum(0, dtype=np.uint16)  # room for the levels of 257 images
                squares += np.square(flat, out=squared[: len(block)], dtype=np.uint16).sum(0, dtype=np.uint32)
        return totals, squares

    with ThreadPoolExecutor(processes) as threads:  # NumPy lets go of the interpreter while it copies
        parts = list(threads.map(copy, range(processes)))
    totals, squares = (np.sum(part, axis=0).reshape(-1, channels).sum(0) for part in zip(*parts, strict=True))
    return Sums(len(rows_in[0]), totals, squares)


def _copy_points(gathered: Gathered, rows_of: dict[Path, np.ndarray]) -> Sums:
    """The same of points, of which there are never many: sums are float64 (2,) each."""
    for path, rows in rows_of.items():
        write_array(path, gathered.pixels[rows])
    first = gathered.pixels[next(iter(rows_of.values()))].reshape(-1, gathered.channels).astype(np.float64)
    return Sums(len(first), first.sum(axis=0), (first**2).sum(axis=0))


def _images_in(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new file of uint8 images of this shape, as memory to write to."""
    if not shape[0]:
        write_array(path, np.empty(shape, np.uint8))
        return np.empty(shape, np.uint8)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        after_header = file.tell()
    return np.memmap(with_room(path, after_header + math.prod(shape)), np.uint8, "r+", after_header, shape)
