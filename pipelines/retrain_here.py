"""The flow `retrain`: every stage of dvc.yaml that is out of date, side by side where it can be.

A task a stage, taken from DVC's own graph; each runs `dvc repro --single-item`, so that DVC alone decides what is up
to date, and `dvc repro` by hand and this flow do the same work and skip the same work.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.surroundings import prepare

prepare()

from prefect import flow, tags  # noqa: E402  its settings are read at import
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402

from genforge.ownership import end_with_owner  # noqa: E402
from genforge.progress import say  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from pipelines.engine import engine, publish, runner, stop_on_signal  # noqa: E402
from pipelines.killed_runs import crash_forgotten, project_tag, watch_heartbeats  # noqa: E402
from pipelines.one_flow import the_only_one  # noqa: E402
from pipelines.server import api  # noqa: E402
from pipelines.stages import Graph, Processes  # noqa: E402


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
    with the_only_one(Project.load(folder)):
        crash_forgotten(folder)
        graph = Graph.read(folder)
        if not graph.stale:
            say("everything is up to date: nothing to do")
            return []
        with engine(folder, jobs, "retrain") as running:
            done = running.run(graph)
        publish(folder)
        return done


def run(root: Path, jobs: int | None) -> None:
    """The flow, on the Prefect server that there is, or on one that ends with it. Arguments and errors as of the flow.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    with stop_on_signal(), api(root, Processes()) as url, temporary_settings({PREFECT_API_URL: url}):
        watch_heartbeats(retrain.name)
        with tags(project_tag(root)):
            retrain(str(root.absolute()), jobs)
