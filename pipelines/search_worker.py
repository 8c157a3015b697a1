"""The flow `search-worker`: another machine helps in the search of a recipe. Adding a machine is starting a worker.

All machines share one study in the database that `GENFORGE_OPTUNA_STORAGE` names, and the search's own tickets see to
it that every trial is done once and that a machine that dies loses none (`genforge.search`). What is here brings a
machine to the point from which that works: the commit, its data and its judge, in a workplace of its own; then it does
what whoever searches does, the step `search`.

    python -m pipelines.search_worker gan --workers 4     # ask four workers of the pool to help with recipe gan
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pipelines.surroundings import prepare

prepare()

from prefect import flow  # noqa: E402  its settings are read at import
from prefect.deployments import run_deployment  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.states import Completed  # noqa: E402

from genforge.commands.arguments import positive  # noqa: E402
from genforge.environment import within  # noqa: E402
from genforge.ownership import end_with_owner  # noqa: E402
from genforge.progress import say  # noqa: E402
from genforge.search.storage import STORAGE_VARIABLE  # noqa: E402
from genforge.settings import UserError  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from pipelines.command import leave, status_of  # noqa: E402
from pipelines.dvc_commands import dvc  # noqa: E402
from pipelines.killed_runs import noted  # noqa: E402
from pipelines.stages import Processes, run_program  # noqa: E402
from pipelines.workplace import git, named, repository_of, without_password, workplace  # noqa: E402

HELP = "help"  # the deployment
NEEDED = ("data/prepared", "results/extractor", "results/recipes")  # by a trial


@flow(name="search-worker", persist_result=False, validate_parameters=False)
def search_worker(recipe: str, commit: str, repository: str = ".") -> Any:
    """Work on the search of a recipe until none of its trials waits.

    Args:
        recipe: of params.yaml. commit: that holds the lock of the data and the judge. repository: folder or URL.

    Raises:
        UserError: there is no shared study, or no such recipe or commit.
        StageFailed: the data cannot be had, or the search fails.
    """
    end_with_owner()
    _check_storage()
    processes = Processes()
    try:
        at_commit = workplace(repository, branch=commit, commit=commit)
        with at_commit as place, noted(place.folder), within(place.environment):
            place.project.config  # noqa: B018  a wrong params.yaml is told before anything is fetched
            dvc(place.folder, place.environment, processes, "pull", "--quiet", "--force", *NEEDED)
            command = ["genforge", "step", "search", recipe]
            run_program(f"search@{recipe}", command, place.folder, place.environment, processes)
    finally:
        processes.end_all()
    return Completed(message=f"every trial of the search of {recipe} has ended")


def ask(recipe: str, workers: int, commit: str, repository: str) -> list[str]:
    """Ask for so many workers; the names of their runs.

    Raises:
        UserError: the server has no such deployment.
    """
    deployment = f"{search_worker.name}/{named(HELP, repository)}"
    try:
        runs: list[Any] = [
            run_deployment(
                deployment,
                parameters={"recipe": recipe, "commit": commit, "repository": without_password(repository)},
                timeout=0,
                as_subflow=False,
            )
            for _ in range(workers)
        ]
    except ObjectNotFound:
        raise UserError(
            f"the Prefect server has no deployment {deployment}; `python -m pipelines.schedule --pool NAME` makes it"
        ) from None
    return [str(run.name) for run in runs]


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a mistake that the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.search_worker", description="Ask workers of the pool to help in a search."
    )
    parser.add_argument("recipe", help="of params.yaml")
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument("--commit", help="with the lock of the data and the judge (default: the one that stands here)")
    arguments = parser.parse_args(argv)
    end_with_owner()

    def work() -> None:
        root = Path()
        Project.load(root).check_recipe(arguments.recipe)
        _check_storage()
        if not os.environ.get("PREFECT_API_URL"):
            raise UserError("PREFECT_API_URL should name the server that the workers of the pool talk to")
        commit = arguments.commit or git(root, "rev-parse", "HEAD")
        names = ask(arguments.recipe, arguments.workers, commit, repository_of(root))
        say(f"asked for help: {', '.join(names)}; `genforge step search {arguments.recipe}` here takes what they find")

    return status_of(work, "interrupted")


def _check_storage() -> None:
    if not os.environ.get(STORAGE_VARIABLE):
        raise UserError(f"{STORAGE_VARIABLE} should name the PostgreSQL database that all machines share")


if __name__ == "__main__":
    leave(main())
