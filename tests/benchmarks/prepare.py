"""How long `ingest` and `prepare` take over a folder of images, beside a plain loop of torchvision's ImageFolder.

    python tests/benchmarks/prepare.py FOLDER [--processes 4] [--image-size 32] [--rounds 21]

FOLDER has one folder a class. The loop only decodes: it takes no digests, finds no duplicates, splits and writes
nothing; files that it cannot open it skips. Both take turns, after a loop that is not counted, so that files are in the
page cache for both. Prints one line of JSON: medians, and the least and the largest ratio within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

from genforge.config import DataSettings
from genforge.data.preparation import prepare
from genforge.data.sources import Places, ingest
from genforge.torchvision_cure import import_torchvision


def loop_over_image_folder(folder: Path) -> tuple[int, float]:
    """Number of images decoded, and seconds."""
    import_torchvision()
    from torchvision.datasets import ImageFolder

    began = time.perf_counter()
    images = ImageFolder(str(folder))
    decoded = 0
    for index in range(len(images)):
        with contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            _, _ = images[index]
            decoded += 1
    return decoded, time.perf_counter() - began


def prepare_once(folder: Path, image_size: int | None, processes: int) -> tuple[float, float, dict[str, int]]:
    """Seconds of `ingest`, seconds of `prepare`, and what became of the files."""
    settings = DataSettings(source="image_folder", folder=str(folder), image_size=image_size)
    with tempfile.TemporaryDirectory(prefix="genforge-") as temporary:
        raw, prepared = Path(temporary) / "raw", Path(temporary) / "prepared"
        raw.mkdir()
        prepared.mkdir()
        began = time.perf_counter()
        ingest(settings, Places(folder, Path(temporary), seed=0), raw)
        ingest_seconds = time.perf_counter() - began
        began = time.perf_counter()
        prepare(raw, folder, prepared, settings, seed=0, processes=processes)
        prepare_seconds = time.perf_counter() - began
        return ingest_seconds, prepare_seconds, json.loads((prepared / "card.json").read_text())["counts"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=None, help="pixels; left out: the images' own")
    parser.add_argument("--rounds", type=int, default=21, help="turns of both; of five, ratios lie from 3.9 to 4.9")
    arguments = parser.parse_args()

    loop_images, _ = loop_over_image_folder(arguments.folder)
    counts: dict[str, int] = {}
    loops, ingests, prepares = [], [], []
    for _ in range(arguments.rounds):
        loops.append(loop_over_image_folder(arguments.folder)[1])
        took = prepare_once(arguments.folder, arguments.image_size, arguments.processes)
        ingests.append(took[0])
        prepares.append(took[1])
        counts = took[2]
    ratios = [loop / own for loop, own in zip(loops, prepares, strict=True)]
    line = {
        "files": counts["inputs"],
        "kept": counts["kept"],
        "loop_images": loop_images,
        "processes": arguments.processes,
        "loop_seconds": round(statistics.median(loops), 3),
        "ingest_seconds": round(statistics.median(ingests), 3),
        "prepare_seconds": round(statistics.median(prepares), 3),
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
