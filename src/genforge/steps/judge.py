"""Score any images, whoever made them, by the same judge as our own models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from genforge.contracts import ImageShape
from genforge.cores import cores
from genforge.files import read_array, read_json, telling_of_no_room
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.console import Group

BROKEN_SHOWN = 10


@dataclass
class Found:
    """What lies at a path. images: uint8 (n, height, width, channels). names: where each lies, below the path; empty
    for those of an array. broken: files that are no image, with reasons. resized: images that were of another size than
    the data's."""

    images: np.ndarray
    names: list[str] = field(default_factory=list)
    broken: list[dict[str, str]] = field(default_factory=list)
    resized: int = 0


def judge(project: Project, path: Path) -> dict[str, Any]:
    """Score a folder of images, or a `.npy` array, against the prepared data.

    Args:
        path: a folder (looked through to any depth), whose images go through the same rules as the data's; or a uint8
            `.npy` array (n, height, width, channels), gray also (n, height, width), of the data's own shape; of points
            an array float32 (n, 2).

    Returns:
        path, images, metrics (name to value), left_out (metrics that the extractor cannot give, with the reason),
        broken (path and reason of each file that could not be read), notes, protocol_name, protocol.

    Raises:
        UserError: there is nothing at `path`, too few images, or images that the judge cannot see.
    """
    from genforge.evaluation.fidelity import Judge, check_images

    settings = project.config.evaluation
    judging = Judge.open(project.extractor, project.prepared, project.device, settings.batch_size)
    found = read_images(project, path, judging.shape)
    check_images(found.images, judging.shape)
    chosen = judging.choose(settings.metrics, "evaluation.metrics")
    protocol = judging.protocol(len(found.images))
    return {
        "path": str(path),
        "images": len(found.images),
        "metrics": judging.score(found.images, [name for name in chosen if name in judging.metrics]),
        "left_out": judging.left_out,
        "broken": found.broken,
        "notes": _notes(project, found, protocol.name),
        "protocol_name": protocol.name,
        "protocol": protocol.to_json(),
    }


def read_images(project: Project, path: Path, shape: ImageShape, single: bool = False) -> Found:
    """The images at `path`, in the shape of the data. single: one file that is an image will do, too."""
    if path.is_dir():
        from genforge.data.image_folder import files_below

        return _read_files(project, path, sorted(files_below(path)), shape)
    if single and path.is_file() and path.suffix != ".npy":
        return _read_files(project, path.parent, [path.name], shape)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder of images or a uint8 .npy array")
    if path.suffix != ".npy":
        raise UserError(
            f"{path} is neither a folder of images nor a .npy array; single images cannot be judged, and files that "
            f"may hold code (.pt, .pth, .ckpt, .pkl, .npz) are never opened"
        )
    images = read_array(path, memory_map=True)
    if shape.is_point and images.ndim == 2:
        images = images[:, None, None, :]
    elif images.ndim == 3 and shape.channels == 1:
        images = images[..., None]
    return Found(images)


def _read_files(project: Project, folder: Path, paths: list[str], shape: ImageShape) -> Found:
    """Files below `folder`, decoded as `prepare` decodes."""
    from genforge.data.decoding import Rules
    from genforge.data.decoding_pool import decode_all
    from genforge.data.decoding_worker import FACTS, Job
    from genforge.data.gathering import with_room
    from genforge.progress import Bar

    data = project.config.data
    if shape.is_point:
        raise UserError("the data are points of the plane; give a .npy array, float32 (points, 2)")
    if shape.height != shape.width:
        raise UserError(
            f"the data's images are {shape.width} x {shape.height}; give a .npy array of that shape instead"
        )
    if not paths:
        raise UserError(f"{folder} holds no files; give a folder of images or a uint8 .npy array")
    channels: Literal[1, 3] = 1 if shape.channels == 1 else 3
    rules = Rules(shape.height, True, channels, data.fit, data.max_pixels, data.max_bytes, data.max_seconds)
    reasons, resized = [""] * len(paths), 0
    with tempfile.NamedTemporaryFile(prefix="genforge-judge-") as scratch, Bar("reading", len(paths), "files") as bar:
        size = len(paths) * shape.size
        with telling_of_no_room("the decoded images", Path(scratch.name), size, "run again, or name another TMPDIR"):
            with_room(Path(scratch.name), size)
        job = Job(str(folder), rules, 0, scratch.name)
        for start, columns in decode_all(job, paths, cores()):
            found = dict(zip(FACTS, columns, strict=True))
            facts = zip(found["reason"], found["detail"], found["width"], found["height"], strict=True)
            for place, (reason, detail, width, height) in enumerate(facts):
                reasons[start + place] = f"{reason}: {detail}" if detail else reason
                resized += not reason and (width, height) != (shape.width, shape.height)
            bar.advance(len(found["reason"]))
        pixels = np.fromfile(scratch.name, np.uint8).reshape(len(paths), shape.height, shape.width, shape.channels)
    broken = [{"path": path, "reason": why} for path, why in zip(paths, reasons, strict=True) if why]
    if len(broken) == len(paths):
        raise UserError(f"none of the {len(paths)} files in {folder} is an image; {paths[0]}: {reasons[0]}")
    read = [path for path, why in zip(paths, reasons, strict=True) if not why]
    return Found(pixels[np.array([not why for why in reasons])], read, broken, resized)


def _notes(project: Project, found: Found, protocol_name: str) -> list[str]:
    """What a person must know before comparing these numbers with others."""
    notes = []
    expected = project.config.evaluation.images
    if len(found.images) != expected:
        notes.append(
            f"not comparable with the leaderboard, whose rows have {expected} images each: these numbers are of "
            f"{len(found.images)}, and FID depends on how many there are"
        )
    elif project.leaderboard.is_file() and (theirs := read_json(project.leaderboard)["protocol_name"]) != protocol_name:
        notes.append(f"not comparable with the leaderboard, which was made by protocol {theirs}; run `dvc repro`")
    if found.resized:
        rule = project.config.data.fit
        notes.append(f"images of another size, resized as the data is (data.fit: {rule}): {found.resized}")
    if found.broken:
        notes.append(f"files that could not be read and were not judged: {len(found.broken)}")
    return notes


def verdict_table(verdict: Mapping[str, Any]) -> Group:
    """What `judge` found, for a terminal: what was judged, the numbers, and what to know about them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from genforge.evaluation.metrics import METRICS

    table = Table("metric")
    table.add_column("value", justify="right")
    table.add_column("better")
    for name, value in verdict["metrics"].items():
        table.add_row(METRICS[name].title, METRICS[name].show(value), METRICS[name].better)
    notes = [*verdict["notes"], *(f"no {METRICS[name].title}: {why}" for name, why in verdict["left_out"].items())]
    notes += [f"  {entry['path']}: {entry['reason']}" for entry in verdict["broken"][:BROKEN_SHOWN]]
    if (more := len(verdict["broken"]) - BROKEN_SHOWN) > 0:
        notes.append(f"  and {more} more; --json lists all")
    title = f"{verdict['path']}: {verdict['images']} images, protocol {verdict['protocol_name']}"
    return Group(Text(title), table, *map(Text, notes))
