"""The deployments: what runs when, on this machine or on the workers of a pool.

    make schedule                                     # this machine serves them until it is ended
    python -m pipelines.schedule --pool gpu           # leave them with the server, for workers to run:
    prefect worker start --pool gpu                   # on as many machines as there are

A deployment for each trigger of `schedule:` in params.yaml (retrain whatever is out of date, by cron or interval; on a
change of data; on drift), and without a schedule, for a person to start: promotion, rollback, help in a search.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines.surroundings import prepare

prepare()

from prefect import serve  # noqa: E402  its settings are read at import
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.actions import WorkPoolCreate  # noqa: E402
from prefect.client.schemas.filters import DeploymentFilter  # noqa: E402
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy  # noqa: E402
from prefect.deployments.runner import RunnerDeployment  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.runner.storage import LocalStorage  # noqa: E402
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402

from genforge import ownership  # noqa: E402
from genforge.commands.arguments import positive  # noqa: E402
from genforge.config import ScheduleSettings  # noqa: E402
from genforge.progress import say  # noqa: E402
from genforge.settings import UserError  # noqa: E402
from genforge.steps import checked  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from pipelines.command import leave, status_of  # noqa: E402
from pipelines.decision import Trigger  # noqa: E402
from pipelines.engine import stop_on_signal  # noqa: E402
from pipelines.killed_runs import crash_left, project_tag, watch_heartbeats  # noqa: E402
from pipelines.promotion import compare, history, promote, rollback  # noqa: E402
from pipelines.retrain_apart import retrain_apart  # noqa: E402
from pipelines.search_worker import HELP, search_worker  # noqa: E402
from pipelines.server import api  # noqa: E402
from pipelines.stages import Processes, mend_locks  # noqa: E402
from pipelines.workplace import (  # noqa: E402
    current_branch,
    named,
    repository_of,
    warn_of_uncommitted,
    without_password,
    workplace,
)


def times(settings: ScheduleSettings) -> dict[Trigger, dict[str, Any]]:
    """When each trigger is looked at, as Prefect wants to hear it."""
    found: dict[Trigger, dict[str, Any]] = {}
    if settings.every:
        found["anything"] = {"interval": timedelta(seconds=settings.every)}
    elif settings.cron:
        found["anything"] = {"cron": settings.cron}
    if settings.on_data:
        found["data"] = {"interval": timedelta(seconds=settings.on_data)}
    if settings.on_drift:
        found["drift"] = {"interval": timedelta(seconds=settings.on_drift)}
    return found


def in_words(times: Mapping[Trigger, Mapping[str, Any]]) -> str:
    """When what is looked for, for people."""
    what = {"anything": "whatever is out of date", "data": "new data", "drift": "data that have drifted"}
    said = [
        f"{what[trigger]} {'at' if 'cron' in when else 'every'} {when.get('cron') or when['interval']}"
        for trigger, when in times.items()
    ]
    return ", ".join(said) or "nothing by itself"


def deployments(
    root: Path, settings: ScheduleSettings, branch: str, jobs: int | None, folder: str | None = None
) -> list[RunnerDeployment]:
    """All that there is for the project in `root`.

    Args:
        settings: when. branch: what is retrained. jobs: stages side by side.
        folder: where workers find the project; None: this machine serves it.
    """
    repository = without_password(repository_of(root))  # anyone who sees the server's pages sees parameters
    parameters = {"repository": repository, "branch": branch, "jobs": jobs}
    # A look that is due while a run is at work is left out: that run looks as well, and the next one comes in time.
    one_at_once = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    tagged = {"tags": [project_tag(root), _tag_of(repository)]}
    every_one: dict[str, Any] = {**tagged, "concurrency_limit": one_at_once}
    scheduled = [
        _deployment(retrain_apart, named(trigger, repository), {**parameters, "trigger": trigger}, folder,
                    {**when, **every_one})
        for trigger, when in times(settings).items()
    ]  # fmt: skip
    project = folder or str(root.resolve())
    by_hand = [
        _deployment(retrain_apart, named("now", repository), {**parameters, "trigger": "anything"}, folder, every_one),
        *(
            _deployment(one, named("by-hand", repository), {"root": project}, folder, tagged)
            for one in (promote, rollback, history, compare)
        ),
        _deployment(search_worker, named(HELP, repository), {"repository": repository}, folder, tagged),
    ]
    return [*scheduled, *by_hand]


def _deployment(
    flow: Any, name: str, parameters: Mapping[str, Any], folder: str | None, more: Mapping[str, Any]
) -> RunnerDeployment:
    made: RunnerDeployment = flow.to_deployment(name, parameters=dict(parameters), enforce_parameter_schema=False,
                                                **more)  # fmt: skip
    if folder is not None:
        made.storage = LocalStorage(folder)  # a worker goes there before it runs the flow
    return made


def _tag_of(repository: str) -> str:
    return named("project", repository)


def forget_others(root: Path, found: list[RunnerDeployment]) -> None:
    """Delete this project's deployments that are not among these: of triggers that it has no more, which the workers of
    a pool would go on with for ever."""
    wanted = {made.full_name for made in found}
    ours = {"tags": {"any_": [project_tag(root), _tag_of(repository_of(root))]}}
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments(deployment_filter=DeploymentFilter.model_validate(ours)):
            name = f"{client.read_flow(deployment.flow_id).name}/{deployment.name}"
            if name not in wanted:
                client.delete_deployment(deployment.id)
                say(f"deployment {name} is scheduled no more: removed")


def leave_with_server(pool: str, found: list[RunnerDeployment]) -> None:
    """Give the deployments to the server, for the workers of a pool; a pool of processes is made where there is none.

    Raises:
        UserError: the server does not take them.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
            say(f"work pool {pool} of type process made")
    for deployment in found:
        deployment.apply(work_pool_name=pool)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 for a mistake that the user can mend, 130 when it was ended."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.schedule", description="Retrain as params.yaml's `schedule` says, until Ctrl-C."
    )
    parser.add_argument("--cron", metavar="'0 3 * * *'", help="instead of schedule.cron")
    parser.add_argument("--every", type=positive, metavar="SECONDS", help="instead of schedule.every")
    parser.add_argument("--on-data", type=positive, metavar="SECONDS", help="instead of schedule.on_data")
    parser.add_argument("--on-drift", type=positive, metavar="SECONDS", help="instead of schedule.on_drift")
    parser.add_argument("--branch", help="what is retrained (default: schedule.branch, else what is checked out)")
    parser.add_argument("--jobs", type=positive, default=None, metavar="N", help="stages side by side "
                        "(default: one for each core, at most 4)")  # fmt: skip
    parser.add_argument("--pool", metavar="NAME", help="leave it to the workers of this work pool, and end")
    parser.add_argument("--folder", metavar="PATH", help="with --pool: where workers find this project (default: here)")
    arguments = parser.parse_args(argv)
    ownership.end_with_owner()
    return status_of(lambda: _work(arguments), "the schedule has ended")


def asked_for(settings: ScheduleSettings, arguments: argparse.Namespace) -> ScheduleSettings:
    """The settings of params.yaml, but for what the command line says."""
    given = {key: getattr(arguments, key) for key in ("cron", "every", "on_data", "on_drift", "branch")}
    given = {key: value for key, value in given.items() if value is not None}
    if "cron" in given:
        given.setdefault("every", None)  # which would go before
    return ScheduleSettings.read({**settings.model_dump(), **given}, "schedule")


def _work(arguments: argparse.Namespace) -> None:
    root = Path()
    project = Project.load(root)
    checked.ensure(project)
    settings = asked_for(project.config.schedule, arguments)
    if arguments.pool and not os.environ.get("PREFECT_API_URL"):
        raise UserError("PREFECT_API_URL should name the server that the workers of the pool talk to")
    if not times(settings) and not arguments.pool:
        raise UserError("schedule: nothing is scheduled; set cron, every, on_data or on_drift in params.yaml")
    mend_locks(root)
    branch = settings.branch or current_branch(repository_of(root))
    with workplace(repository_of(root), branch) as place:  # what is wrong with the surroundings is told now, not at 3
        warn_of_uncommitted(root)
    home = place.folder.parent
    folder = (arguments.folder or str(root.resolve())) if arguments.pool else None
    with stop_on_signal(), api(root, Processes(), pages=True) as url, temporary_settings({PREFECT_API_URL: url}):
        watch_heartbeats(retrain_apart.name)
        crash_left(home)
        found = deployments(root, settings, branch, arguments.jobs, folder)
        forget_others(root, found)
        said = in_words(times(settings))
        if arguments.pool:
            leave_with_server(arguments.pool, found)
            say(f"{len(found)} deployments wait in pool {arguments.pool}: {said}; `prefect worker start --pool "
                f"{arguments.pool}` on every machine")  # fmt: skip
            return
        say(f"branch {branch} is looked at for {said}; runs at {url.removesuffix('/api')}; Ctrl-C ends it")
        # A run that has only begun to import when this process ends finds no parent that it could know its owner by.
        os.environ.update(ownership.environment())
        serve(*found, print_starting_message=False, limit=None)


if __name__ == "__main__":
    leave(main())
