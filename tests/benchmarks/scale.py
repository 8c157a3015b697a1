"""Cost against work, as plots: images a second against batch, image size, number of images and workers.

    python tests/benchmarks/scale.py [--only batch size data workers] [--picture docs/pictures/scale.png]

Batch and size: training steps of a small convolutional GAN on random images, one thread. Data: memory and speed of
batches from 1e3 to 1e6 images that are held, and that stay on disk. Workers: trainings side by side, one thread each,
images a second of all together. Each point is a process of its own. Prints one line of JSON a point, and draws the
picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from images import SCRATCH
from laps import peak_rss_mb

HERE = Path(__file__).parent
BATCHES = (8, 16, 32, 64, 128, 256)
SIZES = (8, 16, 32, 64)
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
SIDE = 16  # pixels of the images that are only loaded: 1e6 of them are 0.77 GB
NARROW = ("--set", "networks.generator.width=16", "--set", "networks.critic.width=16")


def step_line(scratch: Path, batch: int, size: int, threads: int = 1, steps: int = 10) -> list[str]:
    command = [sys.executable, str(HERE / "train_step.py"), "dcgan", "--data", "cifar", "--size", str(size)]
    command += ["--batch", str(batch), "--steps", str(steps), "--threads", str(threads), *NARROW]
    return [*command, "--files", str(scratch / "nowhere"), "--count", "2000", "--scratch", str(scratch)]


def answer(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def load(folder: Path, hold: bool, batches: int) -> None:
    """Print what loading shuffled batches of 64 takes, and the memory of this process."""
    from genforge.data.loading import DeviceData, Prepared

    data = DeviceData(Prepared.open(folder), hold=hold)
    data.batch(0, 64)
    began, used = time.perf_counter(), time.process_time()
    for turn in range(1, batches + 1):
        data.batch(turn, 64)
    wall, processor = time.perf_counter() - began, time.process_time() - used
    found = {"images_per_s": 64 * batches / wall, "images_per_processor_s": 64 * batches / processor}
    print(json.dumps({**found, "peak_rss_mb": peak_rss_mb(), "anonymous_mb": anonymous_mb()}))


def anonymous_mb() -> float:
    """MiB of memory that is this process's own: pages of mapped files, which the system takes back at will, apart."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def images(folder: Path, count: int) -> None:
    """A prepared folder of random images, without labels."""
    from genforge.files import write_json

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    file = np.lib.format.open_memmap(folder / "train-images.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    for start in range(0, count, 10_000):
        file[start : start + 10_000] = random.integers(0, 256, file[start : start + 10_000].shape, np.uint8)
    file.flush()
    shape = {"channels": 3, "height": SIDE, "width": SIDE}
    card = {"shape": shape, "classes": [], "digest": str(count), "splits": {"train": count}, "factors": []}
    write_json(folder / "card.json", card)


def points(only: list[str], scratch: Path, largest: int) -> Iterator[dict[str, Any]]:
    """Every point, as it is measured."""
    if "batch" in only:
        for batch in BATCHES:
            yield {"scale": "batch", "at": batch, **answer(step_line(scratch, batch, 32))}
    if "size" in only:
        for size in SIZES:
            yield {"scale": "size", "at": size, **answer(step_line(scratch, 64, size))}
    if "data" in only:
        for count in (count for count in COUNTS if count <= largest):
            folder = scratch / "scale" / str(count)
            if not (folder / "card.json").is_file():
                images(folder, count)
            for hold in (True, False):
                command = [sys.executable, __file__, "--load", str(folder), *(["--hold"] if hold else [])]
                yield {"scale": "data", "at": count, "held": hold, **answer(command)}
    if "workers" in only:
        for workers in range(1, len(os.sched_getaffinity(0)) + 1):
            command = step_line(scratch, 64, 32, steps=20)
            running = [
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                for _ in range(workers)
            ]
            lines = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
            yield {"scale": "workers", "at": workers, "images_per_s": sum(line["images_per_s"] for line in lines)}


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Four panels; what was not measured stays empty."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    panels = {
        "batch": ("batch (32x32)", "images a second"),
        "size": ("pixels of a side (batch 64)", "images a second"),
        "data": (f"images of the data set ({SIDE}x{SIDE})", "own memory of the process, MiB"),
        "workers": ("trainings side by side", "images a second, all together"),
    }
    for panel, (scale, (across, up)) in zip(axes, panels.items(), strict=True):
        own = [point for point in found if point["scale"] == scale]
        panel.set_xlabel(across)
        panel.set_ylabel(up)
        panel.grid(alpha=0.3)
        if scale == "data":
            for held, label in ((True, "held"), (False, "from disk")):
                line = [point for point in own if point["held"] is held]
                panel.plot(
                    [point["at"] for point in line], [point["anonymous_mb"] for point in line], "o-", label=label
                )
            panel.legend()
        else:
            panel.plot([point["at"] for point in own], [point["images_per_s"] for point in own], "o-")
        if scale != "workers":
            panel.set_xscale("log", base=10 if scale == "data" else 2)
        panel.set_ylim(bottom=0)
        if scale != "data":
            panel.set_xticks([point["at"] for point in own], [str(point["at"]) for point in own])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["batch", "size", "data", "workers"], default=[])
    parser.add_argument("--picture", type=Path, default=None)
    parser.add_argument("--largest", type=int, default=COUNTS[-1], help="data set, in images")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    parser.add_argument("--load", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.load is not None:
        load(arguments.load, arguments.hold, batches=300)
        return
    # What was measured before stays in the picture, so that one scale can be measured again.
    kept = arguments.scratch / "results" / "scale.jsonl"
    only = arguments.only or ["batch", "size", "data", "workers"]
    found = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    found = [point for point in found if point["scale"] not in only]
    for point in points(only, arguments.scratch, arguments.largest):
        found.append(point)
        print(json.dumps(point), flush=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("".join(json.dumps(point) + "\n" for point in found))
    if arguments.picture is not None:
        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
