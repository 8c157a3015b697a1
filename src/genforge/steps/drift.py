"""Whether images have drifted away from those that a model was trained on: behind `genforge drift` and the schedule.

Both sides are looked at through the extractor of the known data. The known side is that data's test split: the same
source as the training split, but images that the extractor was not trained on, as the test needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genforge.evaluation.drift import FEWEST, Drift
from genforge.files import read_array, read_json
from genforge.settings import UserError
from genforge.steps.project import Project

PICTURE = "drift.png"


def drift(project: Project, path: Path, out: Path) -> dict[str, Any]:
    """Set the images at `path` against the project's prepared data.

    Args:
        path: a folder of images or a uint8 .npy array, as `genforge judge` takes it.
        out: the picture to write.

    Returns:
        words, drifted, kid, p_value, level, known and new (numbers of images), null, picture.

    Raises:
        UserError: there is nothing at `path`, or too few images.
    """
    from genforge.contracts import ImageShape
    from genforge.steps.judge import read_images

    shape = ImageShape(**read_json(project.prepared / "card.json")["shape"])
    images = read_images(project, path, shape).images
    found = compare(project, project.prepared, project.extractor, images, out)
    return {**found.to_json(), "path": str(path), "picture": str(out)}


def compare(project: Project, prepared: Path, extractor: Path, new: np.ndarray, picture: Path) -> Drift:
    """Set images against known data, keep the finding in the tracker and draw it.

    Args:
        project: whose settings hold, and whose tracker is told.
        prepared: folder with `test-images.npy` of the known data. extractor: that was trained on it.
        new: uint8 (n, height, width, channels) of the known data's shape.
        picture: where it is written.

    Raises:
        UserError: the images have another shape, or a side has too few.
    """
    from genforge.evaluation.drift import look_for_drift
    from genforge.evaluation.extractor import load_extractor
    from genforge.report import drift_picture
    from genforge.tracking import runs as tracking

    known = read_array(prepared / "test-images.npy", memory_map=True)
    if known.dtype != np.uint8:
        raise UserError("the data are points of the plane, and drift is looked for in images alone")
    if new.ndim != 4 or new.dtype != np.uint8 or new.shape[1:] != known.shape[1:]:
        raise UserError(f"the images are {new.dtype} {new.shape[1:]}, the known ones {known.dtype} {known.shape[1:]}")
    if min(len(known), len(new)) < FEWEST:
        raise UserError(f"{len(new)} new images and {len(known)} known ones; drift needs {FEWEST} of each at least")
    known, new = _part(known, project.config.seed), _part(new, project.config.seed)
    eyes = load_extractor(extractor, project.device)
    batch_size = project.config.evaluation.batch_size
    before, now = (eyes.features(images, batch_size).features for images in (known, new))
    found = look_for_drift(before, now, level=project.config.schedule.drift_level, seed=project.config.seed)
    drift_picture.draw(picture, found, known, new)
    tags = {"drifted": str(found.has_drifted).lower(), "decision": found.words, "extractor": eyes.digest}
    with tracking.run(project.root, kind="drift", tags=tags) as record:
        record.metrics(0, {"kid": found.kid, "p_value": found.p_value})
        record.artifact(picture)
    return found


def new_images(prepared: Path, known: Path) -> np.ndarray:
    """Images in one prepared data set whose contents the other one never held, uint8 (n, height, width, channels), in
    no order that means anything.

    Args:
        prepared: `data/prepared` as it is. known: folder with `manifest.parquet` of the known data.
    """
    import polars as pl

    from genforge.data.decoding import content_digest
    from genforge.data.splitting import SPLITS

    before = set(pl.read_parquet(known / "manifest.parquet", columns=["content"])["content"].drop_nulls())
    found = []
    for split in SPLITS:
        images = read_array(prepared / f"{split}-images.npy", memory_map=True)
        places = [
            place
            for place, image in enumerate(images)
            if content_digest(np.ascontiguousarray(image).tobytes(), image.shape[-1]).hex() not in before
        ]
        found.append(np.asarray(images[places]))
    return np.concatenate(found)


def in_words(found: Mapping[str, Any]) -> str:
    """The finding, for a terminal."""
    return f"{found['path']}: {found['words']}\n{found['picture']}"


def _part(images: np.ndarray, seed: int) -> np.ndarray:
    """As many as the test looks at, drawn at random."""
    from genforge.evaluation.drift import MOST

    chosen = np.random.default_rng(seed).permutation(len(images))[:MOST]
    return np.asarray(images[np.sort(chosen)])
