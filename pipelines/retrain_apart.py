"""The flow `retrain-apart`: a retraining that nobody watches, in a workplace of its own.

Its order: decide, evaluate, push the data, verify that the remote really has them, commit `dvc.lock` on a branch,
register with that commit and the digest of that lock, gates, alias. Whatever fails before the alias leaves it where it
was; and an alias never points to something that could not be made again from what is in the remote and in git.

The branch, `genforge/retrain-...`, starts from the newest commit of the branch that is retrained, has one commit with
the lock that was registered and one with the registration itself, and is there to be merged or not: the next run starts
from its lock either way.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from pipelines.surroundings import prepare

prepare()

from prefect import flow, tags, task  # noqa: E402  its settings are read at import
from prefect.artifacts import create_image_artifact, create_markdown_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402
from prefect.states import Completed  # noqa: E402

from genforge.commands.arguments import positive  # noqa: E402
from genforge.environment import within  # noqa: E402
from genforge.files import read_json  # noqa: E402
from genforge.ownership import end_with_owner  # noqa: E402
from genforge.progress import say  # noqa: E402
from genforge.settings import UserError  # noqa: E402
from genforge.steps import checked  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from genforge.steps.summary import data_address  # noqa: E402
from pipelines.command import leave, status_of  # noqa: E402
from pipelines.decision import TRIGGERS, check_trigger, decide, fetch  # noqa: E402
from pipelines.dvc_commands import dvc, verify_remote  # noqa: E402
from pipelines.engine import RETRY_SECONDS, Engine, engine, may_pass, publish, runner, stop_on_signal  # noqa: E402
from pipelines.killed_runs import noted, project_tag, watch_heartbeats  # noqa: E402
from pipelines.new_data import bring  # noqa: E402
from pipelines.notification import notify  # noqa: E402
from pipelines.server import api  # noqa: E402
from pipelines.stages import Graph, Processes  # noqa: E402
from pipelines.workplace import LOCK, Workplace, new_branch, repository_of, without_password, workplace  # noqa: E402

REGISTER = "register"
BEFORE_SEARCH = ("resolve", "ingest", "prepare", "extractor")
T = TypeVar("T")


class Step(Protocol):
    """Calls a function in the name of a step of the story, and gives what it gives."""

    def __call__(self, name: str, function: Callable[[], T]) -> T: ...


@dataclass(frozen=True)
class Outcome:
    """What a run came to. commit, branch: where its lock lies, empty where nothing was retrained. staging: who holds
    the alias afterwards, and why. picture: of the decision, where drift was looked at."""

    retrained: bool
    reason: str
    branch: str = ""
    commit: str = ""
    staging: str = ""
    picture: Path | None = None

    @property
    def words(self) -> str:
        if not self.retrained:
            return self.reason
        return f"retrained ({self.reason}); {self.staging}; dvc.lock is on {self.branch or self.commit[:9]}"


def story(place: Workplace, trigger: str, jobs: int | None, step: Step) -> Outcome:
    """A run from its decision to its alias, in a workplace that stands at the newest commit.

    Args:
        trigger: what there has to be to retrain, see `decision.py`.
        jobs: stages side by side.
        step: calls a function in the name of a step; as a Prefect task, or plainly.

    Raises:
        UserError, StageFailed, PipelineFailed: a step failed; `staging` is where it was.
    """
    before = Processes()
    try:
        brought = step("data", lambda: bring(place, before))
        decision = step("decide", lambda: decide(place, check_trigger(trigger), before))
        if decision.retrain:
            checked.ensure(place.project)
            step("fetch", lambda: fetch(place, before))
    finally:
        before.end_all()
    say(f"{trigger}: {decision.reason}")
    if not decision.retrain:
        return Outcome(False, decision.reason, picture=decision.picture)
    branch, told = new_branch(), {"trigger": trigger, "decision": decision.reason, "data.origin": brought.words}
    with engine(place.folder, jobs, "retrain-apart", place.environment, told) as running:
        if place.project.config.schedule.search_workers:
            step("invite", lambda: invite(running, place, branch))
        step("evaluate", lambda: evaluate(running))
        step("push", lambda: push(running))
        kept = step("verify", lambda: verify_remote(place.folder))
        say(f"there are {kept}")
        message = f"Retrain {place.project.config.data.name}: {decision.reason}\n\nImages: {brought.words}\n{kept}"
        commit = step("commit", lambda: place.commit_to(branch, [LOCK, *brought.files], message))
        step(REGISTER, lambda: register(running))
        staging = _standing(place)
        step("note", lambda: note(place, branch, staging))
    on_branch = branch if commit != place.commit else ""
    return Outcome(True, decision.reason, on_branch, commit, staging, decision.picture)


def invite(running: Engine, place: Workplace, branch: str) -> None:
    """Ask workers of the pool to help with every search that is to come. What a trial needs is pushed before, and its
    lock is committed on the run's branch, so that it can be had there. Without help, this machine searches alone."""
    from genforge.search.storage import STORAGE_VARIABLE
    from pipelines.search_worker import NEEDED, ask

    graph = Graph.read(running.folder)
    recipes = [name.partition("@")[2] for name in graph.order if name in graph.stale and name.startswith("search@")]
    if not recipes or not os.environ.get(STORAGE_VARIABLE):
        if recipes:
            say(f"no help for {len(recipes)} searches: schedule.search_workers needs {STORAGE_VARIABLE}")
        return
    running.run(graph.only(*BEFORE_SEARCH))
    dvc(running.folder, running.environment, running.processes, "push", "--quiet", *NEEDED)
    commit = place.commit_to(branch, [LOCK], "What the searches need")
    workers = place.project.config.schedule.search_workers
    for recipe in recipes:
        try:
            ask(recipe, workers, commit, place.repository)
        except UserError as error:
            say(f"warning: nobody helps with the search of {recipe}: {error}")


def evaluate(running: Engine) -> None:
    """Everything up to the leaderboard, the gates that look at a model alone, and the report."""
    running.run(Graph.read(running.folder).without(REGISTER))


def push(running: Engine) -> None:
    """All that the lock names, into the default remote."""
    dvc(running.folder, running.environment, running.processes, "push", "--quiet")


def register(running: Engine) -> None:
    """The step `register`: versions with commit and lock digest, the gates that compare, and the aliases, last."""
    running.run(Graph.read(running.folder).only(REGISTER))


def note(place: Workplace, branch: str, staging: str) -> None:
    """Keep in git that this lock was registered, so that the next run knows. All is done by then: a repository that is
    away now costs nothing but a look at the same models by the next run."""
    try:
        place.commit_to(branch, [LOCK], f"Registered: {staging}")
    except UserError as error:
        say(f"warning: that it was registered could not be committed: {error}")


def _standing(place: Workplace) -> str:
    registered = read_json(place.project.registered)
    staged = registered["staging"]
    return f"{registered['model']}@staging is {staged['holder']}: {staged['reason']}"


@flow(name="retrain-apart", task_runner=runner, persist_result=False, validate_parameters=False)
def retrain_apart(
    repository: str = ".", branch: str | None = None, trigger: str = "anything", jobs: int | None = None
) -> Any:
    """Retrain what a repository holds, in a clone of its own.

    Args:
        repository: a folder, or a URL. branch: None: the one that is checked out there.
        trigger: `anything`, `data` or `drift`. jobs: stages side by side.

    Raises:
        UserError, StageFailed, PipelineFailed: a step failed; `staging` is where it was.
    """
    end_with_owner()  # on a schedule the flow runs in a process of its own
    facts = {"repository": without_password(repository)}
    try:
        with workplace(repository, branch) as place, noted(place.folder), within(place.environment):
            outcome = story(place, trigger, jobs, _as_task)
            _publish(place, trigger, outcome)
    except Exception as error:
        notify("failed", f"retraining {Path(repository).name} failed: {error}", facts)
        raise
    notify("retrained" if outcome.retrained else "nothing new", outcome.words, facts)
    return Completed(message=outcome.words)


def _as_task(name: str, function: Callable[[], T]) -> T:
    """What can pass is tried again, as a stage is."""
    made: Any = task(
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        retries=len(RETRY_SECONDS),
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=may_pass,
        persist_result=False,
    )
    return cast(T, made(function)())


def _publish(place: Workplace, trigger: str, outcome: Outcome) -> None:
    """The decision as a Prefect artifact, with its picture; and what the run has made."""
    create_markdown_artifact(
        f"**{trigger}**: {outcome.words}", key=f"decision-{trigger}", description="whether to retrain, and why"
    )
    if outcome.picture is not None:
        text = "new images against those of the staged model"
        create_image_artifact(image_url=data_address(outcome.picture), key="drift", description=text)
    if outcome.retrained:
        publish(place.folder)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: retrained, or nothing to do. 2: a mistake that the user can mend. 1: something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.retrain_apart", description="Retrain once, now, in a clone of its own."
    )
    parser.add_argument("--trigger", choices=TRIGGERS, default="anything", help="what there has to be (default: any)")
    parser.add_argument("--branch", help="what is retrained (default: schedule.branch, else what is checked out)")
    parser.add_argument("--jobs", type=positive, default=None, metavar="N", help="stages side by side "
                        "(default: one for each core, at most 4)")  # fmt: skip
    arguments = parser.parse_args(argv)
    end_with_owner()

    def work() -> None:
        root = Path()
        repository = repository_of(root)
        branch = arguments.branch or Project.load(root).config.schedule.branch
        with stop_on_signal(), api(root, Processes()) as url, temporary_settings({PREFECT_API_URL: url}):
            watch_heartbeats(retrain_apart.name)
            with tags(project_tag(root)):
                run: Any = retrain_apart
                state = run(without_password(repository), branch, arguments.trigger, arguments.jobs, return_state=True)
            state.result()
            print(state.message)

    return status_of(work, "interrupted; what was done is kept, and the next run goes on from there")


if __name__ == "__main__":
    leave(main())
