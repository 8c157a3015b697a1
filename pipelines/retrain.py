"""`genforge run`: look at what is out of date, and have the flow `retrain` do it (`retrain_here.py`).

Where nothing is to be done neither Prefect nor torch is imported, which together take three times as long as the look.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from genforge.cli import set_environment
from genforge.commands.arguments import positive
from genforge.ownership import end_with_owner
from genforge.progress import say
from genforge.settings import UserError
from genforge.steps import checked
from genforge.steps.project import Project
from genforge.steps.summary import summarise
from pipelines.command import leave, status_of
from pipelines.one_flow import turn_away
from pipelines.stages import Graph, mend_locks


def _work(jobs: int | None) -> None:
    root, began = Path(), time.monotonic()
    project = Project.load(root)
    turn_away(project)
    mend_locks(root)
    graph = Graph.read(root)
    if not graph.stale:
        summarise(project, "Everything is up to date: nothing to do.")
        return
    _check_folder(project)
    checked.ensure(project)
    from pipelines.retrain_here import run

    say(f"{len(graph.stale)} of {len(graph.order)} stages to look at")
    run(root, jobs)
    summarise(project, f"Done in {time.monotonic() - began:.0f} s.")


def _check_folder(project: Project) -> None:
    """DVC would only say that there is no such file. Raises UserError."""
    folder = project.source_folder
    if project.config.data.source != "image_folder" or folder.exists():
        return
    known = folder.with_name(f"{folder.name}.dvc").is_file()
    remedy = "`dvc pull` brings it" if known else "put images there, or set data.folder to where they are"
    raise UserError(f"data.folder: there is no {folder}; {remedy}")


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: all is up to date. 2: a mistake that the user can mend. 1: something failed."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.retrain", description="Bring everything up to date.")
    parser.add_argument("--jobs", type=positive, default=None, metavar="N", help="stages side by side "
                        "(default: one for each core, at most 4)")  # fmt: skip
    arguments = parser.parse_args(argv)
    set_environment()
    end_with_owner()
    return status_of(
        lambda: _work(arguments.jobs), "interrupted; what was done is kept, and `genforge run` goes on from there"
    )


if __name__ == "__main__":
    leave(main())
