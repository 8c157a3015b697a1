"""What the watermark costs and how often it is found where it is not.

    python tests/benchmarks/watermark.py [--project .] [--model results/models/gan ...] [--seeds 8] [--keys 2000]

In a project whose data are prepared at 64x64 or more, with the extractor and the models trained. Prints a line of JSON
for each measurement:

`chance`: real images and generated ones, not marked, looked at with many keys. `found` counts marks (theory: below
1e-9 for each look), `least` is the smallest chance of all. The agreement with one given word has a known law, so a
threshold that it passes with probability 0.01 by the bound has to be passed by fewer: `one word` is how often it was.
`jpeg`: marked images after JPEG: how many are found, with the right word, and the largest chance.
`fid`: each sampling seed's images judged as drawn and marked; `difference` is the mean over seeds of the paired
difference with its standard error, `spread` the standard deviation of FID between seeds, as they are drawn.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from genforge import watermark
from genforge.catalog import target
from genforge.data.loading import Prepared
from genforge.evaluation.fidelity import Judge
from genforge.models import load
from genforge.steps.project import Project

WORD = 0x5EEDF00D


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


def after_jpeg(images: np.ndarray, quality: int) -> dict[str, float]:
    right, worst = 0, 0.0
    for image in watermark.embed(images, WORD):
        buffer = io.BytesIO()
        Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(buffer, "JPEG", quality=quality)
        pixels = np.asarray(Image.open(buffer))
        mark = watermark.detect(pixels if pixels.ndim == 3 else pixels[..., None])
        right += mark.is_found and mark.word == WORD
        worst = max(worst, mark.chance)
    return {"quality": quality, "images": len(images), "right": int(right), "largest chance": worst}


def cost(judge: Judge, drawn: list[np.ndarray]) -> dict[str, object]:
    plain = [judge.score(images, ["fid"])["fid"] for images in drawn]
    marked = [judge.score(watermark.embed(images, WORD), ["fid"])["fid"] for images in drawn]
    difference = np.subtract(marked, plain)
    error = float(difference.std(ddof=1) / np.sqrt(len(drawn)))
    return {
        "fid": round(float(np.mean(plain)), 4),
        "marked": round(float(np.mean(marked)), 4),
        "difference": [round(float(difference.mean()), 4), round(error, 4)],
        "spread": round(float(np.std(plain, ddof=1)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--model", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--keys", type=int, default=2000)
    arguments = parser.parse_args()
    project = Project.load(arguments.project)
    real = np.asarray(Prepared.open(project.prepared).images("test")[: arguments.images])
    judge = Judge.open(project.extractor, project.prepared, "cpu", 250)
    print(json.dumps({"chance": "real", **chances(real, arguments.keys)}), flush=True)
    print(json.dumps({"jpeg": "real", **after_jpeg(real, 75)}), flush=True)
    print(json.dumps({"fid": "real", "images": len(real), **cost(judge, [real[::2], real[1::2]])}), flush=True)
    for folder in arguments.model:
        model = load(arguments.project / folder, target)
        drawn = [model.draw(seed, arguments.images) for seed in range(arguments.seeds)]
        print(json.dumps({"chance": folder.name, **chances(drawn[0], arguments.keys)}), flush=True)
        print(json.dumps({"jpeg": folder.name, **after_jpeg(drawn[0], 75)}), flush=True)
        print(json.dumps({"fid": folder.name, **cost(judge, drawn)}), flush=True)


if __name__ == "__main__":
    main()
