"""What the watermark costs and how often it is found where it is not.

    python tests/benchmarks/watermark.py [--project .] [--model results/models/gan ...] [--seeds 4] [--keys 5000]

In a project whose data are prepared at 64x64 or more, with the extractor and the models trained. Prints a line of JSON
for each measurement:

`chance`: real images and generated ones, not marked, looked at with many keys. `found` counts marks (theory: below
1e-9 for each look), `least` is the smallest chance of all. The agreement with one given word has a known law, so a
threshold that it passes with probability 0.01 by the bound has to be passed by fewer: `one word` is how often it was.
`jpeg`: marked images after JPEG at each quality from 75 to 100: how many are found, how many with the right word, and
the largest chance. `decibels` is how near the marked images are to the plain ones.
`fid`: the images of all sampling seeds together, as drawn and marked, judged by FID. `interval` is the judge's own 95 %
interval of the plain images' FID at so many images; `difference` marked minus plain, with the 95 % interval of the
paired difference, in which everything but the mark cancels; `spread` the standard deviation of FID between the sampling
seeds, each by itself, of images as they are drawn. The cost is noise to whoever compares two models when `difference`
is far inside of `interval`; it is there all the same where the interval of the difference does not hold 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from genforge import watermark
from genforge.catalog import target
from genforge.data.loading import Prepared
from genforge.evaluation.features import Features
from genforge.evaluation.fidelity import Judge
from genforge.evaluation.metrics import METRICS
from genforge.evaluation.statistics import statistic_of
from genforge.evaluation.uncertainty import compare, estimate, pooled
from genforge.models import load
from genforge.steps.project import Project

WORD = 0x5EED
QUALITIES = range(75, 101)


def agreement(images: np.ndarray, key: str) -> tuple[np.ndarray, int]:
    """Of each image with the word 0, and of how many coefficients it is the sum."""
    values = watermark._spectrum(watermark._blocks(watermark._luminance(images.astype(float))))
    dither, _ = watermark._pattern(values.shape[1], key)
    return np.cos(2 * np.pi * (values / watermark.STEP - dither)).sum(axis=(1, 2)), dither.size


def chances(images: np.ndarray, keys: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    found, least, passed, looks = 0, 1.0, 0, 0
    for key in range(keys):
        chosen = images[random.choice(len(images), 20, replace=False)]
        for image in chosen:
            mark = watermark.detect(image, f"key {key}")
            found += mark.is_found
            least = min(least, mark.chance)
        sums, count = agreement(chosen, f"key {key}")
        passed += sum(watermark.chance(float(value), count) <= 0.01 for value in sums)
        looks += len(chosen)
    return {"looks": looks, "found": found, "least": least, "one word": passed / looks}


def after_jpeg(images: np.ndarray, marked: np.ndarray) -> dict[str, float]:
    found, right, worst = 0, 0, 0.0
    for image in marked:
        for quality in QUALITIES:
            mark = watermark.detect(watermark._jpeg(image, quality))
            found += mark.is_found
            right += mark.is_found and mark.word == WORD
            worst = max(worst, mark.chance)
    error = np.mean((marked.astype(np.float32) - images) ** 2)
    looks = len(images) * len(QUALITIES)
    decibels = round(float(10 * np.log10(255**2 / error)), 1)
    return {"looks": looks, "found": found, "right": right, "largest chance": worst, "decibels": decibels}


def cost(judge: Judge, seeds: list[np.ndarray], marked: list[np.ndarray]) -> dict[str, object]:
    fid = statistic_of(METRICS["fid"], judge.reference)
    plain, other = (
        pooled([judge.extractor.features(images, judge.batch_size) for images in side]) for side in (seeds, marked)
    )
    found, paired = estimate(fid, [plain]), compare(fid, [other], [plain])
    parts = np.split(plain.features, np.cumsum([len(images) for images in seeds])[:-1])
    return {
        "images": len(plain.features),
        "fid": round(found.mean, 5),
        "interval": [round(found.low, 5), round(found.high, 5)],
        "difference": round(paired.difference, 5),
        "its interval": [round(paired.low, 5), round(paired.high, 5)],
        "spread": round(float(np.std([fid.of(Features(part, None)) for part in parts], ddof=1)), 5),
        "images a seed": len(seeds[0]),
    }


def measure(name: str, judge: Judge, seeds: list[np.ndarray], keys: int) -> None:
    """All of one set of images: those of several sampling seeds, or of several parts."""
    marked = [watermark.embed(images, WORD) for images in seeds]
    some = max(1, 200 // len(seeds))
    for kind, found in (
        ("fid", cost(judge, seeds, marked)),
        ("jpeg", after_jpeg(*(np.concatenate([images[:some] for images in side]) for side in (seeds, marked)))),
        ("chance", chances(seeds[0], keys)),
    ):
        print(json.dumps({kind: name, **found}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--model", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=2500, help="of each seed")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--keys", type=int, default=5000, help="with which 20 images each are looked at")
    arguments = parser.parse_args()
    project = Project.load(arguments.project)
    real = np.asarray(Prepared.open(project.prepared).images("test"))
    judge = Judge.open(project.extractor, project.prepared, "cpu", 250)
    parts = np.array_split(real[: arguments.images * arguments.seeds], arguments.seeds)
    measure("real", judge, parts, arguments.keys)
    for folder in arguments.model:
        model = load(arguments.project / folder, target)
        drawn = [model.draw(seed, arguments.images) for seed in range(arguments.seeds)]
        measure(folder.name, judge, drawn, arguments.keys)


if __name__ == "__main__":
    main()
