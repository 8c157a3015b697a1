"""What a `dvc repro` with nothing to do takes, beside one of a pipeline without stages.

    python tests/benchmarks/noop.py [--project FOLDER] [--rounds 5]

FOLDER is a project whose stages are all up to date (`make run`). Rounds take turns; one line of JSON, seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUIET = {"DVC_NO_ANALYTICS": "1"}
UP_TO_DATE = "Data and pipelines are up to date."


def repro(folder: Path) -> tuple[float, str]:
    """Seconds, and what it says."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env={**os.environ, **QUIET},
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - began, done.stdout


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    asked = [sys.executable, "-m", "dvc", "status", "--quiet"]
    if subprocess.run(asked, cwd=arguments.project, env={**os.environ, **QUIET}).returncode:
        sys.exit(f"not every stage of {arguments.project.resolve()} is up to date; say `make run` there first")
    seconds: dict[str, list[float]] = {"project": [], "empty": []}
    with tempfile.TemporaryDirectory(prefix="genforge-") as temporary:
        empty = Path(temporary)
        for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
            subprocess.run(command, cwd=empty, env={**os.environ, **QUIET}, check=True)
        (empty / "dvc.yaml").write_text("stages: {}\n")
        for _ in range(arguments.rounds):
            for name, folder in (("project", arguments.project), ("empty", empty)):
                taken, said = repro(folder)
                if name == "project" and UP_TO_DATE not in said:
                    sys.exit(f"`dvc repro` had something to do in {folder.resolve()}:\n{said}")
                seconds[name].append(taken)
    ours, theirs = (statistics.median(seconds[name]) for name in ("project", "empty"))
    line = {"name": "noop", "peer": "an empty pipeline", "ours_s": round(ours, 3), "peer_s": round(theirs, 3)}
    print(json.dumps({**line, "more_s": round(ours - theirs, 3), "rounds": arguments.rounds}))


if __name__ == "__main__":
    main()
