"""How long the judge takes for FID and IS, beside torch-fidelity on the same images with the same extractor.

    python tests/benchmarks/evaluation.py [--data data/prepared] [--images 10000] [--threads 4] [--rounds 9]

Prints a line of JSON for each comparison; `ratio` is the median over rounds of torch-fidelity's time over ours, and
`spread` the least and the largest.

`images`: `torch_fidelity.calculate_metrics` on images, fid and isc, nothing cached, against `Judge.score`. Ours has the
real images' features and moments from the step `extractor`, once for a data set; nothing of the generated images.
torch-fidelity looks at the real images every time, so the ratio depends on how many there are: once as many as are
generated, and once 50,000, as CIFAR-10 has (with --data: the training split). torch-fidelity is timed with its own
defaults and, as `tuned`, with what serves it best here (larger batches, no loader processes).
`matrix`: from the moments of two sets of features to their Frechet distance, 2048 dimensions, torch-fidelity's
`fid_statistics_to_metric` against ours with the root of the reference's covariance.

Sides take turns within each round. `difference` is the largest relative one between their numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from genforge.contracts import ImageShape, Port
from genforge.data.loading import Prepared
from genforge.evaluation.extractor import ClassifierExtractor
from genforge.evaluation.fidelity import Judge
from genforge.evaluation.measures.frechet import frechet_distance, root_of
from genforge.evaluation.reference import Reference
from genforge.files import digest_array
from genforge.networks.classifier import Classifier
from genforge.torchvision_cure import import_torchvision

sys.path.append(str(Path(__file__).parents[1]))
from torch_fidelity_call import calculate

REFERENCE = 50_000
DIMENSIONS = 2048
METRICS = {"fid": "frechet_inception_distance", "is": "inception_score_mean"}


def compare_images(images: np.ndarray, real: np.ndarray, rounds: int) -> dict[str, Any]:
    """FID and IS of images uint8 (n, height, width, channels) against real ones."""
    height, width, channels = images.shape[1:]
    shape = ImageShape(channels, height, width)
    torch.manual_seed(0)
    network = Classifier(Classifier.settings_type(), Port("image_to_vector", shape, outputs=10))
    extractor = ClassifierExtractor(network, f"random-{channels}-{height}", names_classes=True)
    judge = Judge(extractor, shape, Reference.of(extractor.features(real).features), digest_array(real))
    protocol = judge.protocol(len(images))

    def theirs(**keywords: Any) -> dict[str, float]:
        found = calculate(extractor, images, real, protocol, isc=True, fid=True, **keywords)
        return {name: found[key] for name, key in METRICS.items()}

    sides = {
        "torch_fidelity": theirs,
        "tuned": lambda: theirs(batch_size=250, save_cpu_ram=True),
        "ours": lambda: judge.score(images, METRICS),
    }
    seconds, values = take_turns(sides, rounds)
    ours, others = values["ours"], values["torch_fidelity"]
    return {
        "comparison": "images",
        "images": len(images),
        "real_images": len(real),
        "shape": [height, width, channels],
        **report(seconds),
        "ratio_tuned": round(statistics.median(ratios(seconds, "tuned")), 2),
        "difference": max(abs(ours[name] / others[name] - 1) for name in METRICS),
    }


def compare_matrices(rounds: int) -> dict[str, Any]:
    """The Frechet distance of the moments of 10,000 rectified features each."""
    import_torchvision()
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    random = np.random.RandomState(0)
    moments = []
    for scale, shift in ((1.0, 0.3), (1.1, 0.2)):
        mixing = random.standard_normal((DIMENSIONS, DIMENSIONS)) * scale / DIMENSIONS**0.5
        features = np.maximum(random.standard_normal((10_000, DIMENSIONS)) @ mixing + shift, 0.0).astype(np.float32)
        moments.append(fid_features_to_statistics(torch.from_numpy(features)))
    generated, real = moments
    root = root_of(real["sigma"])
    sides: dict[str, Callable[[], float]] = {
        "torch_fidelity": lambda: fid_statistics_to_metric(generated, real, verbose=False)[KEY_METRIC_FID],
        "ours": lambda: frechet_distance(generated["mu"], generated["sigma"], real["mu"], root),
    }
    seconds, values = take_turns(sides, rounds)
    difference = abs(values["ours"] / values["torch_fidelity"] - 1)
    return {"comparison": "matrix", "dimensions": DIMENSIONS, **report(seconds), "difference": difference}


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each side in each round, and what it gave, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    values: dict[str, Any] = {}
    for count in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            values[name] = side()
            if count:
                seconds[name].append(time.perf_counter() - began)
    return seconds, values


def ratios(seconds: dict[str, list[float]], side: str) -> list[float]:
    """A side's time over ours, by round, rising."""
    return sorted(theirs / ours for theirs, ours in zip(seconds[side], seconds["ours"], strict=True))


def report(seconds: dict[str, list[float]]) -> dict[str, Any]:
    found = ratios(seconds, "torch_fidelity")
    return {
        "threads": torch.get_num_threads(),
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "ratio": round(statistics.median(found), 2),
        "spread": [round(found[0], 2), round(found[-1], 2)],
    }


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, "blas"):
            yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="prepared data, whose training split is real; left out: random")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=["images", "matrix"])
    arguments = parser.parse_args()

    random = np.random.RandomState(0)
    with on_threads(arguments.threads):
        if arguments.only != "matrix":
            if arguments.data is None:
                real = random.randint(0, 256, (REFERENCE, 32, 32, 3)).astype(np.uint8)
            else:
                real = np.array(Prepared.open(arguments.data).images("train"))
            chosen = real[random.randint(0, len(real), arguments.images)]
            images = np.clip(chosen + random.normal(0, 20, chosen.shape), 0, 255).astype(np.uint8)
            for count in sorted({min(arguments.images, len(real)), len(real)}):
                print(json.dumps(compare_images(images, real[:count], arguments.rounds)), flush=True)
        if arguments.only != "images":
            print(json.dumps(compare_matrices(arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
