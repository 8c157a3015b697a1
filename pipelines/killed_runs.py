"""A flow run whose process was killed does not stay Running.

A killed process cannot tell the server, so two others do. On a lasting server (`PREFECT_API_URL`) an automation marks a
run as Crashed when its heartbeat has not come for 90 seconds. And the next run of the same project on the same machine,
which holds the project's lock and so knows that no other is at work, marks what is left there: that serves the
temporary server as well, whose history stays while it comes and goes. A run in a workplace leaves its id beside that
one for as long as it works there: where it still stands and nobody holds the workplace, the run was killed, which the
next run there sees, and the schedule when it begins.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run as own_run
from prefect.states import Crashed

from genforge.files import write_text
from genforge.progress import say
from genforge.steps.workplaces import lock_of

AUTOMATION = "genforge: a run of `{flow}` without a heartbeat has crashed"
SECONDS_BETWEEN_HEARTBEATS = 30  # Prefect allows no less
SECONDS_WITHOUT = 90.0
HEARTBEAT = "prefect.flow-run.heartbeat"
KILLED = "its process was killed"
NOTE = ".run"  # how the file's name ends that holds a run's id, beside its workplace
FINAL = ("Completed", "Failed", "Cancelled", "Crashed")


def watch_heartbeats(flow: str, within: float = SECONDS_WITHOUT) -> None:
    """See to it that the server has the automation for runs of the flow of this name. It stays there."""
    name = AUTOMATION.format(flow=flow)
    trigger = EventTrigger(
        after={HEARTBEAT},
        expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in FINAL)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": flow},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within),
    )
    message = f"no heartbeat for {within:.0f} s: its process has ended without a word"
    action = ChangeFlowRunState(state=StateType.CRASHED, message=message)
    try:
        with get_client(sync_client=True) as client:
            if not client.read_automations_by_name(name):
                client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[action]))
    except PrefectHTTPStatusError as error:  # a server that has no automations, or not for us: retraining goes first
        say(f"the Prefect server takes no automation, so a killed run stays Running until the next one: {error}")


def project_tag(root: Path) -> str:
    """A tag of the runs of one project on one machine."""
    return f"project:{socket.gethostname()}:{root.resolve()}"


def crash_forgotten(root: Path) -> None:
    """Mark other Running runs of this project as Crashed. The caller holds the project's lock, so they are dead."""
    own = own_run.get_id()
    if own is None:
        return  # called as a plain function
    with get_client(sync_client=True) as client:
        wanted = {"tags": {"all_": [project_tag(root)]}, "state": {"type": {"any_": ["RUNNING"]}}}
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            if str(run.id) != own:
                client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)


@contextlib.contextmanager
def noted(workplace: Path) -> Iterator[None]:
    """For the length of the block, the id of this flow run stands beside the workplace, which the caller holds."""
    own = own_run.get_id()
    if own is None:  # called as a plain function
        yield
        return
    crash_left(workplace.parent, held=workplace)
    note = workplace.with_name(f"{workplace.name}{NOTE}")
    write_text(note, own)
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def crash_left(home: Path, held: Path | None = None) -> None:
    """Mark runs as Crashed that still stand beside a workplace which nobody holds, or the caller does."""
    for note in sorted(home.glob(f"*{NOTE}")):
        workplace = note.with_suffix("")
        if workplace != held and lock_of(workplace).is_held():
            continue
        with contextlib.suppress(FileNotFoundError, ObjectNotFound):  # seen by another; of another server
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(UUID(note.read_text("utf-8")))
                if run.state is not None and run.state.is_running():
                    client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
        note.unlink(missing_ok=True)
