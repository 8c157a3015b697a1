"""What runs when, on one machine. The story through the servers of a team is told by `test_servers.py`."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings

from genforge.config import ScheduleSettings
from genforge.processes import words_of
from genforge.registry.registry import Registry
from genforge.settings import UserError
from genforge.tracking.mlflow_store import StoreAway
from pipelines.engine import may_pass
from pipelines.notification import BLOCK
from pipelines.schedule import asked_for, deployments, forget_others, leave_with_server, times
from pipelines.server import api
from pipelines.stages import Processes
from pipelines.workplace import named
from tests.pipelines import small_project as small
from tests.webhooks import webhook

SECONDS = 600.0
PARAMS = """
recipes: {box: {from: box}}
schedule: {cron: '0 3 * * *'}
registry: {approval: [production]}
"""


def test_each_trigger_is_a_deployment_and_what_people_start_has_no_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENFORGE_REPOSITORY", "https://git.example.com/team/images.git")
    settings = ScheduleSettings.read({"every": 3600, "on_data": 60, "on_drift": 90}, "schedule")
    assert times(settings) == {
        "anything": {"interval": timedelta(hours=1)},
        "data": {"interval": timedelta(seconds=60)},
        "drift": {"interval": timedelta(seconds=90)},
    }
    assert times(ScheduleSettings()) == {"anything": {"cron": "0 3 * * *"}}
    assert times(ScheduleSettings.read({"cron": None}, "schedule")) == {}
    found = {made.full_name: made for made in deployments(tmp_path, settings, "main", 2)}
    scheduled = {name for name, made in found.items() if made.schedules}
    images = named("", "https://git.example.com/team/images.git")
    assert re.fullmatch(r"-images-[0-9a-f]{6}", images)
    assert scheduled == {f"retrain-apart/{trigger}{images}" for trigger in ("anything", "data", "drift")}
    assert found.keys() - scheduled == {
        f"retrain-apart/now{images}",
        f"promote/by-hand{images}",
        f"rollback/by-hand{images}",
        f"history/by-hand{images}",
        f"compare/by-hand{images}",
        f"search-worker/help{images}",
    }
    assert found[f"retrain-apart/drift{images}"].parameters["trigger"] == "drift"
    with pytest.raises(UserError, match=r"schedule\.every"):
        ScheduleSettings.read({"every": 1}, "schedule")


def test_what_the_command_line_says_goes_before_params_yaml() -> None:
    def asked(**given: object) -> dict[str, object]:
        said = argparse.Namespace(
            **{"cron": None, "every": None, "on_data": None, "on_drift": None, "branch": None, **given}
        )
        return dict(times(asked_for(ScheduleSettings.read({"every": 3600, "on_data": 60}, "schedule"), said)))

    data = {"data": {"interval": timedelta(seconds=60)}}
    assert asked() == {"anything": {"interval": timedelta(hours=1)}, **data}
    assert asked(every=7200) == {"anything": {"interval": timedelta(hours=2)}, **data}
    assert asked(cron="0 4 * * *") == {"anything": {"cron": "0 4 * * *"}, **data}


def test_a_store_that_is_away_is_tried_again_and_a_mistake_is_not() -> None:
    """What is raised in a task of ours, and not in a stage's process."""

    def ended(error: Exception) -> SimpleNamespace:
        def result() -> None:
            raise error

        return SimpleNamespace(result=result)

    assert may_pass(None, None, ended(StoreAway("MLflow does not answer")))
    assert not may_pass(None, None, ended(UserError("there is no such model")))
    assert not may_pass(None, None, ended(ValueError("a bug")))


def test_what_the_server_keeps_holds_no_password_and_is_the_same_project_with_and_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ScheduleSettings.read({"on_data": 60}, "schedule")
    monkeypatch.setenv("GENFORGE_REPOSITORY", "https://ada:secret@git.example.com/team/images.git")
    found = deployments(tmp_path, settings, "main", None, str(tmp_path))
    assert not any("secret" in repr(made.model_dump()) for made in found)
    addresses = {made.parameters["repository"] for made in found if "repository" in made.parameters}
    assert addresses == {"https://git.example.com/team/images.git"}
    monkeypatch.setenv("GENFORGE_REPOSITORY", "https://git.example.com/team/images.git")
    again = deployments(tmp_path, settings, "main", None, str(tmp_path))
    assert [made.full_name for made in again] == [made.full_name for made in found]


@pytest.mark.slow
def test_projects_share_a_server_and_a_trigger_that_was_taken_out_runs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "GENFORGE_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    ada, bob = tmp_path / "ada" / "images", tmp_path / "bob" / "images"

    def deploy(root: Path, **settings: object) -> None:
        root.mkdir(parents=True, exist_ok=True)
        found = deployments(root, ScheduleSettings.read(settings, "schedule"), "main", None, str(root))
        forget_others(root, found)
        leave_with_server("pool", found)

    with api(tmp_path, Processes()) as url, temporary_settings({PREFECT_API_URL: url}):

        def scheduled() -> dict[str, str]:
            """Name to repository of what runs by itself."""
            found = _ask(url, "deployments/filter", {})
            return {made["name"]: made["parameters"]["repository"] for made in found if made["schedules"]}

        deploy(ada, cron=None, on_data=600, on_drift=900)
        deploy(bob, cron=None, on_data=600)
        both = {named("data", str(root)): str(root) for root in (ada, bob)}
        assert scheduled() == {**both, named("drift", str(ada)): str(ada)}
        deploy(ada, cron=None, on_data=600)
        assert scheduled() == both
        deploy(ada, cron=None)
        assert scheduled() == {named("data", str(bob)): str(bob)}
        there = {made["name"] for made in _ask(url, "deployments/filter", {})}
        assert {named("by-hand", str(root)) for root in (ada, bob)} <= there


@pytest.mark.slow
def test_a_schedule_looks_in_time_asks_people_and_ends_with_all_that_it_started(
    tmp_path: Path, new_store: Path, history: Callable[[Path], Path]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "dvc.yaml").write_text("stages:\n  a: {cmd: 'echo 1 > a', outs: [a]}\n")
    (project / "params.yaml").write_text(PARAMS)
    (project / ".gitignore").write_text("/.genforge/\n/mlflow.db*\n")
    (project / ".dvcignore").write_text(".genforge\n")
    small.initialise(project)
    small.run(project, "dvc", "repro", "--quiet")
    small.commit(project, "a project in which all is done")
    shutil.copyfile(new_store, project / new_store.name)
    history(project)
    registry = Registry(project, "digits")
    registry.history_of_aliases.make_model()
    registry.client.create_model_version("digits", (project / "nothing").as_uri())
    before = small.state_of(project)
    with webhook() as (hook, heard):
        environment = {**small.environment(project), "GENFORGE_WEBHOOK": hook, BLOCK: "custom-webhook/team"}
        command = [sys.executable, "-m", "pipelines.schedule", "--on-data", "10"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        schedule = subprocess.Popen(command, cwd=project, env=environment, **pipes)

        def wait_for(look: Callable[[], Any]) -> Any:
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                assert schedule.poll() is None, schedule.communicate()
                if found := look():
                    return found
                time.sleep(0.5)  # each look costs the server, too
            raise TimeoutError(str(heard))

        try:
            log = project / ".genforge" / "prefect" / "server.log"
            address = wait_for(lambda: log.exists() and re.search(r"http://127\.0\.0\.1:\d+/api", log.read_text()))[0]
            nightly = wait_for(lambda: [run for run in _flow_runs(address) if _trigger(run) == "anything"])
            starts = [datetime.fromisoformat(run["expected_start_time"]) for run in nightly]
            assert all((start.hour, start.minute) == (3, 0) for start in starts)
            looked = wait_for(lambda: list(heard))[0]
            assert looked["event"] == "nothing new" and "nothing new: every stage is up to date" in looked["text"]

            # A block that somebody gives the server hears of the next look, too; until then its absence failed nothing.
            with temporary_settings({PREFECT_API_URL: address}):
                said = {"by": "block", "event": "{{subject}}", "text": "{{body}}"}
                CustomWebhookNotificationBlock(name="team", url=hook, json_data=said).save("team")
            (by_block,) = wait_for(lambda: [told for told in heard if "by" in told][:1])
            assert by_block["event"] == "genforge: nothing new" and "up to date" in by_block["text"]

            # That was seen; each further look would start another process.
            data = {"deployments": {"name": {"any_": [named("data", str(project.resolve()))]}}}
            for deployment in wait_for(lambda: _ask(address, "deployments/filter", data)):
                place = f"deployments/{deployment['id']}"

                def paused(place: str = place) -> bool:
                    _ask(address, place, {"paused": True}, "PATCH")
                    return bool(_ask(address, place).get("paused"))

                wait_for(paused)

            # A promotion that somebody has to approve waits for a name, and keeps it.
            promotion = {"flows": {"name": {"any_": ["promote"]}}}
            deployment = wait_for(lambda: _ask(address, "deployments/filter", promotion))[0]["id"]
            # A busy server may answer too late: asked again, it gives the run that it has made.
            wanted = {"parameters": {"model": "digits/1", "reason": "looked at"}, "idempotency_key": "asked once"}
            asked = f"deployments/{deployment}/create_flow_run"
            run = wait_for(lambda: _ask(address, asked, wanted).get("id"))
            wait_for(lambda: _ask(address, f"flow_runs/{run}").get("state_type") == "PAUSED")
            assert registry.aliases() == {}
            assert [told["text"] for told in heard if told["event"] == "approval"] == [
                "digits/1 waits for approval to become @production: looked at"
            ]

            def approved() -> bool:
                """A run that has only just paused may not take an answer yet."""
                state = _ask(address, f"flow_runs/{run}").get("state_type")
                if state == "PAUSED":
                    _ask(address, f"flow_runs/{run}/resume", {"run_input": {"name": "Ada"}})
                return bool(state == "COMPLETED")

            wait_for(approved)
            (move,) = registry.history("production")
            assert (move.after, move.evidence["approval"]["by"]) == (1, "Ada")
        finally:
            family = [psutil.Process(schedule.pid), *psutil.Process(schedule.pid).children(recursive=True)]
            schedule.send_signal(signal.SIGTERM)
            said = schedule.communicate(timeout=SECONDS)
        # A run that has just been started first imports what it needs, and then sees that nobody wants it any more.
        _, alive = psutil.wait_procs(family, timeout=SECONDS)
    assert not alive, [words_of(process.pid) for process in alive]
    assert "Traceback" not in str(said), said
    assert small.state_of(project) == before


def _trigger(run: dict[str, Any]) -> str:
    return str(run["parameters"]["trigger"])


def _flow_runs(address: str) -> list[dict[str, Any]]:
    """Runs of retrainings that are to come."""
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "flows": {"name": {"any_": ["retrain-apart"]}}}
    return list(_ask(address, "flow_runs/filter", wanted) or [])


def _ask(address: str, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """What Prefect's server answers; nothing while it does not."""
    data, headers = None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "{}")
    except OSError:
        return {}
