"""A flow run whose process was killed does not stay Running.

A killed process cannot tell the server, so two others do. On a lasting server (`PREFECT_API_URL`) an automation marks a
run as Crashed when its heartbeat has not come for 90 seconds. And the next run of the same project on the same machine,
which holds the project's lock and so knows that no other is at work, marks what is left there: that serves the
temporary server as well, whose history stays while it comes and goes.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run as own_run
from prefect.states import Crashed

from genforge.progress import say

AUTOMATION = "genforge: a run of `{flow}` without a heartbeat has crashed"
SECONDS_BETWEEN_HEARTBEATS = 30  # Prefect allows no less
SECONDS_WITHOUT = 90.0
HEARTBEAT = "prefect.flow-run.heartbeat"
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
                client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)
