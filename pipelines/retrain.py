"""The flow `retrain`: every stage of dvc.yaml that is out of date, side by side where it can be.

A task a stage, taken from DVC's own graph; each runs `dvc repro --single-item`, so that DVC alone decides what is up
to date, and `dvc repro` by hand and this flow do the same work and skip the same work.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pipelines.surroundings import prepare

prepare()

from prefect import flow, tags  # noqa: E402  its settings are read at import
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402

from genforge.commands.arguments import positive  # noqa: E402
from genforge.locks import Busy, Lock, alone, busy  # noqa: E402
from genforge.ownership import end_with_owner  # noqa: E402
from genforge.progress import say  # noqa: E402
from genforge.settings import UserError  # noqa: E402
from genforge.steps import checked  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from genforge.steps.summary import summarise  # noqa: E402
from pipelines.command import leave, status_of  # noqa: E402
from pipelines.engine import engine, publish, runner, stop_on_signal  # noqa: E402
from pipelines.killed_runs import crash_forgotten, project_tag, watch_heartbeats  # noqa: E402
from pipelines.server import api  # noqa: E402
from pipelines.stages import Graph, Processes, mend_locks  # noqa: E402

RETRAIN = "retrain this project"


@flow(name="retrain", task_runner=runner, persist_result=False, validate_parameters=False)
def retrain(root: str = ".", jobs: int | None = None) -> list[str]:
    """Bring the project in `root` up to date.

    Args:
        root: the project's folder, with params.yaml and dvc.yaml.
        jobs: stages side by side; None: one a core, at most four.

    Returns:
        Names of the stages that were looked at, in the order in which they ended.

    Raises:
        PipelineFailed: some stage failed. Stages that did not need it have run all the same.
        Busy: another flow retrains this project.
    """
    end_with_owner()  # on a schedule the flow runs in a process of its own
    folder = Path(root)
    with alone(_flow_lock(folder), RETRAIN):
        crash_forgotten(folder)
        graph = Graph.read(folder)
        if not graph.stale:
            say("everything is up to date: nothing to do")
            return []
        with engine(folder, jobs, "retrain") as running:
            done = running.run(graph)
        publish(folder)
        return done


def _flow_lock(root: Path) -> Path:
    return Project.load(root).lock("flow")


def _work(jobs: int | None) -> None:
    root, began = Path(), time.monotonic()
    project = Project.load(root)
    if (lock := Lock(_flow_lock(root))).is_held():
        raise Busy(busy(lock, RETRAIN))
    mend_locks(root)
    graph = Graph.read(root)
    if not graph.stale:
        summarise(project, "Everything is up to date: nothing to do.")
        return
    _check_folder(project)
    checked.ensure(project)
    with stop_on_signal(), api(root, Processes()) as url, temporary_settings({PREFECT_API_URL: url}):
        watch_heartbeats(retrain.name)
        say(f"{len(graph.stale)} of {len(graph.order)} stages to look at")
        with tags(project_tag(root)):
            retrain(str(root.absolute()), jobs)
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
    parser.add_argument("--jobs", type=positive, default=None, metavar="N", help="stages side by side")
    arguments = parser.parse_args(argv)
    end_with_owner()
    return status_of(
        lambda: _work(arguments.jobs), "interrupted; what was done is kept, and `genforge run` goes on from there"
    )


if __name__ == "__main__":
    leave(main())
