"""A run in a clone of its own: what it leaves when a step fails, what a version knows then, what it never touches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from genforge.config import load
from genforge.environment import within
from genforge.files import digest_bytes
from genforge.registry.registry import Registry
from genforge.settings import UserError
from pipelines import decision, new_data
from pipelines.dvc_commands import verify_remote
from pipelines.engine import Engine
from pipelines.retrain_apart import Outcome, story
from pipelines.stages import Graph, Processes, run_stage
from pipelines.workplace import current_branch, workplace
from tests.pipelines import small_project as small

T = TypeVar("T")
INJECTED = ("data", "decide", "fetch", "evaluate", "push", "register")  # `verify` and `commit` fail by what happens


class Injected(Exception):
    """A step that fails."""


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in small.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "GENFORGE_WORKPLACES", "GENFORGE_WEBHOOK", "GENFORGE_PIPELINE_RUN"):
        monkeypatch.delenv(name, raising=False)

    def one_after_the_other(self: Engine, graph: Graph) -> list[str]:
        """Stages without Prefect around them, by DVC all the same."""
        for stage in (stages := [stage for stage in graph.order if stage in graph.stale]):
            run_stage(stage, self.folder, self.environment, self.processes, lambda *_: None)
        return stages

    monkeypatch.setattr(Engine, "run", one_after_the_other)


def retrain(project: Path, trigger: str = "anything", failing: str = "") -> Outcome:
    """A run whose step of this name fails."""

    def step(name: str, function: Callable[[], T]) -> T:
        if name == failing:
            raise Injected(name)
        return function()

    with workplace(project) as place, within(place.environment):
        return story(place, trigger, 1, step)


def size(path: Path) -> int:
    return path.stat().st_size


def branches(project: Path) -> list[str]:
    return small.run(project, "git", "branch", "--list", "--format=%(refname:short)", "genforge/*").split()


@pytest.mark.slow
def test_a_failure_in_any_step_leaves_staging_as_it_was_and_then_it_moves(
    tmp_path: Path, new_store: Path, surroundings: None
) -> None:
    project = small.make(tmp_path / "project")
    shutil.copyfile(new_store, project / new_store.name)
    registry = Registry(project, "shapes")
    registry.history_of_aliases.make_model()
    registry.client.create_model_version("shapes", (project / "nothing").as_uri())
    registry.move("staging", 1, None, "a model of before")
    before = small.state_of(project)

    for name in INJECTED:
        with pytest.raises(Injected, match=name):
            retrain(project, failing=name)
        assert registry.aliases() == {"staging": 1}
        assert len(branches(project)) == (name == "register")

    # What really happens: a copy in the remote that broke off, and a repository that takes no branch.
    (weights,) = [path for path in (tmp_path / "remote").rglob("*") if path.is_file() and path.stat().st_size > 40_000][
        :1
    ]
    whole = weights.read_bytes()
    weights.chmod(0o600)
    weights.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="bytes instead of"):
        retrain(project)
    weights.unlink()
    with workplace(project) as place, pytest.raises(UserError, match="is missing"):
        verify_remote(place.folder)
    weights.write_bytes(whole)
    hook = project / ".git" / "hooks" / "update"
    hook.write_text("#!/bin/sh\necho not here >&2\nexit 1\n")
    hook.chmod(0o755)
    small.run(project, "git", "branch", "-D", *branches(project))
    with pytest.raises(UserError, match="not here"):
        retrain(project)
    hook.unlink()
    assert registry.aliases() == {"staging": 1} and not branches(project)

    # Nothing fails: the alias moves, and the version names a commit that holds the very lock that it was made with.
    outcome = retrain(project)
    assert outcome.retrained and [outcome.branch] == branches(project)
    staged = registry.holder("staging")
    assert staged is not None and staged.number == 2 and "version 2 (gan)" in outcome.staging
    lock = small.run(project, "git", "show", f"{staged.tags['genforge.commit']}:dvc.lock")
    assert staged.tags["genforge.commit"] == outcome.commit and staged.tags["genforge.dirty"] == "false"
    assert staged.tags["genforge.dvc_lock"] == digest_bytes(lock.encode())
    assert small.run(project, "git", "merge-base", "main", outcome.branch).strip() == before[0].strip()
    assert small.state_of(project) == before

    assert (project / "mlruns").is_dir() and not list((project / ".genforge" / "workplaces").glob("*/mlruns"))

    # The next one finds nothing, in a workplace that has nothing as well: the lock alone tells.
    shutil.rmtree(project / ".genforge" / "workplaces")
    again = retrain(project)
    assert not again.retrained and "nothing new" in again.reason and branches(project) == [outcome.branch]

    # New images of the same kind: no drift, which is shown. Of another kind: drift.
    small.draw_images(project / small.IMAGES, 60, seed=3)
    same = retrain(project, "drift")
    assert not same.retrained and "that is no drift" in same.reason, same.reason
    small.draw_images(project / small.IMAGES, 60, seed=4, bright=True)
    with workplace(project) as place, within(place.environment):
        processes = Processes()
        new_data.bring(place, processes)
        found = decision.decide(place, "drift", processes)
    assert found.retrain and found.drift is not None and found.drift.new == 120, found.reason
    assert found.picture is not None and found.picture.is_file()
    assert small.state_of(project) == before


def test_each_run_has_a_workplace_of_its_own(tmp_path: Path) -> None:
    project = small.make(tmp_path / "project", images=2)
    before = small.state_of(project)
    with workplace(project) as first, workplace(project) as second:
        assert [place.folder.name for place in (first, second)] == ["1", "2"]
        assert first.commit == second.commit == before[0].strip()
        (first.folder / "params.yaml").write_text("nothing")
        assert load(second.folder / "params.yaml").data.name == "shapes"
        with within(first.environment):
            assert Registry(first.folder, "shapes").root == first.folder
    with workplace(project) as third:  # what a run has changed is gone
        assert third.folder == first.folder and load(third.folder / "params.yaml").data.name == "shapes"
    assert small.state_of(project) == before
    with pytest.raises(UserError, match="no branch 'nowhere'"), workplace(project, "nowhere"):
        pass
    assert current_branch(str(project)) == "main"


def test_a_folder_that_changes_is_not_read_and_one_that_does_not_is_known_again(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    small.draw_images(folder, 3, seed=0)
    first = new_data.at_rest(folder, seconds=0.2)
    assert new_data.at_rest(folder, seconds=0.2) == first
    small.draw_images(folder, 1, seed=1)
    assert new_data.listing(folder) != first
    with pytest.raises(UserError, match="the next run takes it"):
        new_data.at_rest(folder, seconds=1e6, patience=0.0)


def test_what_is_told_of_an_outcome() -> None:
    outcome = Outcome(True, "out of date: prepare", "genforge/retrain-1", "c0ffee", "shapes@staging is version 2")
    assert json.dumps(outcome.words) == json.dumps(
        "retrained (out of date: prepare); shapes@staging is version 2; dvc.lock is on genforge/retrain-1"
    )
