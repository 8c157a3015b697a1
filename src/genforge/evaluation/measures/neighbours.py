"""Who lies in whose neighbourhood: precision, recall, density and coverage, from one table of distances.

A ball stands around every image, as wide as the distance to its k-th nearest other image of its own kind.
Precision and recall (Kynkaanniemi et al. 2019, equation 1; k = 3) ask whether an image lies in any ball of the other
kind; density and coverage (Naeem et al. 2020, equations 3 and 4; k = 5) how many real balls hold a generated image, and
which real balls hold any. Density and coverage trust no ball around a generated image, and an outlier among the real
images gains less by its wide one.

Distances are taken in blocks, so that memory does not grow with the square of the number of images; those among the
real images once for a data set. Time does grow with the square, so a part of many real images stands for all: it is
drawn once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from genforge.evaluation.metric import Evidence, Metric

IMAGES = 5000  # real images, at most
FIDELITY_NEIGHBOURS, COVERAGE_NEIGHBOURS = 3, 5
FARTHEST = max(FIDELITY_NEIGHBOURS, COVERAGE_NEIGHBOURS)
BLOCK = 4_000_000  # distances that are held at once: 16 MB

PART, NEAR = "neighbours.part", "neighbours.near"


@dataclass(frozen=True)
class Neighbourhoods:
    """How generated images (n) and real ones (m) lie.

    generated_near: distances of each generated image to its nearest other ones, ascending, (n, 5).
    twin: which other generated image is the nearest, (n,).
    held: by k, how many real balls hold each generated image, (n,).
    reached: by k, whether some generated ball holds each real image, (m,).
    nearest_generated: distance of each real image to the nearest generated one, (m,).
    """

    generated_near: np.ndarray
    twin: np.ndarray
    held: dict[int, np.ndarray]
    reached: dict[int, np.ndarray]
    nearest_generated: np.ndarray


def neighbourhoods(evidence: Evidence) -> Neighbourhoods:
    """All that the four metrics, and the search for duplicates, want of one table of distances."""
    real, real_near = evidence.reference[evidence.prepared[PART]], evidence.prepared[NEAR]
    count = len(evidence.generated)
    generated_near, twin = nearest_others(evidence.generated, FARTHEST)
    held = {k: np.zeros(count, np.int64) for k in (FIDELITY_NEIGHBOURS, COVERAGE_NEIGHBOURS)}
    reached = {k: np.zeros(len(real), bool) for k in held}
    nearest_generated = np.full(len(real), np.inf, np.float32)
    for rows, distances in blocks(evidence.generated, real):
        for k in held:
            held[k][rows] = (distances <= real_near[:, k - 1]).sum(axis=1)
            reached[k] |= (distances <= generated_near[rows, k - 1, None]).any(axis=0)
        np.minimum(nearest_generated, distances.min(axis=0), out=nearest_generated)
    return Neighbourhoods(generated_near, twin, held, reached, nearest_generated)


def blocks(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Distances of rows of `first` (n, d) to all of `second` (m, d), float32: which rows, and (rows, m)."""
    import torch

    others = torch.from_numpy(np.ascontiguousarray(second))
    size = max(1, BLOCK // len(second))
    for start in range(0, len(first), size):
        part = torch.from_numpy(np.ascontiguousarray(first[start : start + size]))
        yield slice(start, start + len(part)), torch.cdist(part, others).numpy()


def nearest_others(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, count), float32 and ascending, to the nearest other rows, and which row is the nearest, (n,)."""
    import torch

    near, twin = [], []
    for rows, distances in blocks(features, features):
        place = np.arange(len(distances))
        distances[place, place + rows.start] = np.inf  # itself
        found = torch.from_numpy(distances).topk(count, largest=False, sorted=True)
        near.append(found.values.numpy())
        twin.append(found.indices[:, 0].numpy())
    return np.concatenate(near), np.concatenate(twin)


def part_of(count: int, seed: int) -> np.ndarray:
    """Which of `count` real images are looked at: indices, ascending."""
    return np.sort(np.random.RandomState(seed).permutation(count)[:IMAGES])


def prepare(reference: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    part = part_of(len(reference), seed)
    return {PART: part, NEAR: nearest_others(reference[part], FARTHEST)[0]}


def fidelity_settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"neighbours": FIDELITY_NEIGHBOURS, "real_images": min(IMAGES, reference_images)}


def coverage_settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"neighbours": COVERAGE_NEIGHBOURS, "real_images": min(IMAGES, reference_images)}


def precision(evidence: Evidence, neighbours: int, real_images: int) -> float:
    return float((evidence.shared(neighbourhoods).held[neighbours] > 0).mean())


def recall(evidence: Evidence, neighbours: int, real_images: int) -> float:
    return float(evidence.shared(neighbourhoods).reached[neighbours].mean())


def density(evidence: Evidence, neighbours: int, real_images: int) -> float:
    return float(evidence.shared(neighbourhoods).held[neighbours].mean() / neighbours)


def coverage(evidence: Evidence, neighbours: int, real_images: int) -> float:
    near = evidence.prepared[NEAR][:, neighbours - 1]
    return float((evidence.shared(neighbourhoods).nearest_generated <= near).mean())


PRECISION = Metric(
    name="precision",
    title="Precision",
    better="higher",
    meaning="share of the generated images in the real ones' neighbourhoods (Kynkaanniemi et al. 2019)",
    compute=precision,
    settings=fidelity_settings,
    prepare=prepare,
    main=True,
)
RECALL = Metric(
    name="recall",
    title="Recall",
    better="higher",
    meaning="share of the real images in the generated ones' neighbourhoods (Kynkaanniemi et al. 2019)",
    compute=recall,
    settings=fidelity_settings,
    prepare=prepare,
    main=True,
)
DENSITY = Metric(
    name="density",
    title="Density",
    better="higher",
    meaning="how many of the real images' neighbourhoods hold a generated image, over the number that hold a real one: "
    "1 is real, more is too typical (Naeem et al. 2020)",
    compute=density,
    settings=coverage_settings,
    prepare=prepare,
)
COVERAGE = Metric(
    name="coverage",
    title="Coverage",
    better="higher",
    meaning="share of the real images' neighbourhoods that hold a generated image (Naeem et al. 2020)",
    compute=coverage,
    settings=coverage_settings,
    prepare=prepare,
)
