"""`ingest` and `prepare` over damaged images of every format: what became of them, and how much memory it took.

    python tests/benchmarks/fuzz_prepare.py [--files 10000] [--seed 0] [--processes 2] [--max-pixels 64000000]

Whole images lie among the damaged ones and must all come through. Exits with an error when `prepare` fails. Prints one
line of JSON; memory is the highest resident size, in MiB, of this process over what it had before, and of any worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from damaged_images import damaged, originals

from genforge.config import DataSettings
from genforge.data.preparation import prepare
from genforge.data.sources import Places, ingest

MIB = 1024  # KiB, as /proc counts


def highest_memory(pid: int | str = "self") -> int:
    """The highest resident size that a process has had, MiB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // MIB if found else 0


class Watch(threading.Thread):
    """Looks at the children of this process, again and again, for the highest memory that each has ever had."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended, self.highest, self.seen = threading.Event(), 0, set[int]()

    def run(self) -> None:
        while not self.ended.wait(0.1):
            for child in psutil.Process().children():
                with contextlib.suppress(OSError):
                    self.highest = max(self.highest, highest_memory(child.pid))
                    self.seen.add(child.pid)


def fuzz(files: int, seed: int, processes: int, max_pixels: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="genforge-fuzz-") as temporary:
        folder, raw, out = (Path(temporary, name) for name in ("in", "raw", "prepared"))
        for place in (folder, raw, out):
            place.mkdir()
        whole = originals(seed)
        for number, (form, data) in enumerate(whole):
            (folder / f"whole-{number:03d}.{form}").write_bytes(data)
        for name, data in damaged(files, seed):
            (folder / name).write_bytes(data)
        limits = {"max_broken_share": 0.999, "max_pixels": max_pixels}
        settings = DataSettings.read({"source": "image_folder", "image_size": 8, "channels": 3, **limits}, "data")
        watch = Watch()
        watch.start()
        before, began = highest_memory(), time.perf_counter()
        ingest(settings, Places(folder, Path(temporary), seed), raw)
        prepare(raw, folder, out, settings, seed, processes=processes)
        seconds, after = time.perf_counter() - began, highest_memory()
        watch.ended.set()
        watch.join()
        card = json.loads((out / "card.json").read_text())
        import polars as pl

        manifest = pl.read_parquet(out / "manifest.parquet")
        lost = manifest.filter(pl.col("path").str.starts_with("whole-"), verdict="quarantined")
        crashed = manifest.filter(pl.col("reason").is_in(["crashed the decoder", "took too long"]))
        return {
            "files": files,
            "whole": len(whole),
            "whole_lost": lost.select("path", "reason", "detail").rows(),
            "counts": card["counts"],
            "reasons": card["quarantine"],
            "crashed": crashed.select("path", "reason", "detail").rows(),
            "workers": len(watch.seen),
            "parent_grew_by": after - before,
            "highest_worker": watch.highest,
            "seconds": round(seconds, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--max-pixels", type=int, default=64_000_000, help="of `data`: larger images are absurd")
    print(json.dumps(fuzz(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
