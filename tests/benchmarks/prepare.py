"""How long `ingest` and `prepare` take over a folder of images, beside a plain loop of torchvision's ImageFolder.

    python tests/benchmarks/prepare.py FOLDER [--processes 4] [--image-size 32]

FOLDER has one folder a class. The loop only decodes: it takes no digests, finds no duplicates, splits and writes
nothing; files that it cannot open it skips. It goes first, so that files are in the page cache for both. Prints one
line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=None, help="pixels; left out: the images' own")
    arguments = parser.parse_args()

    loop_images, loop_seconds = loop_over_image_folder(arguments.folder)
    settings = DataSettings(source="image_folder", folder=str(arguments.folder), image_size=arguments.image_size)
    with tempfile.TemporaryDirectory(prefix="genforge-") as temporary:
        raw, prepared = Path(temporary) / "raw", Path(temporary) / "prepared"
        raw.mkdir()
        prepared.mkdir()
        began = time.perf_counter()
        ingest(settings, Places(arguments.folder, Path(temporary), seed=0), raw)
        ingest_seconds = time.perf_counter() - began
        began = time.perf_counter()
        prepare(raw, arguments.folder, prepared, settings, seed=0, processes=arguments.processes)
        prepare_seconds = time.perf_counter() - began
        card = json.loads((prepared / "card.json").read_text())
    print(
        json.dumps(
            {
                "files": card["counts"]["inputs"],
                "kept": card["counts"]["kept"],
                "loop_images": loop_images,
                "processes": arguments.processes,
                "loop_seconds": round(loop_seconds, 3),
                "ingest_seconds": round(ingest_seconds, 3),
                "prepare_seconds": round(prepare_seconds, 3),
                "ratio": round(loop_seconds / prepare_seconds, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
