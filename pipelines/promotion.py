"""The flows `promote`, `rollback`, `history` and `compare`: what the commands of these names do, for people who work in
Prefect's pages.

Where `registry.approval` asks for somebody's approval, the flow pauses until a person has given a name there; the
history keeps who that was, and when. The commands ask for `--approve NAME` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.surroundings import prepare

prepare()

from prefect import flow  # noqa: E402  its settings are read at import
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact  # noqa: E402
from prefect.flow_runs import pause_flow_run  # noqa: E402
from prefect.input import RunInput  # noqa: E402
from prefect.states import Completed  # noqa: E402

from genforge.ownership import end_with_owner  # noqa: E402
from genforge.steps import aliases  # noqa: E402
from genforge.steps import compare as compare_step  # noqa: E402
from genforge.steps.project import Project  # noqa: E402
from genforge.steps.summary import data_address  # noqa: E402
from pipelines.notification import notify, notify_block  # noqa: E402

SECONDS_TO_ANSWER = 7 * 86_400
SECONDS_BETWEEN_LOOKS = 10


class Approval(RunInput):
    """What a person fills in before the alias moves. name: of who has looked at the model and approves of it."""

    name: str


@flow(name="promote", persist_result=False)
def promote(
    model: str, alias: str = "production", reason: str = "by hand", root: str = ".", approved_by: str | None = None
) -> Any:
    """Give an alias to a registered version, once whoever has to approve has done so.

    Args:
        model: NAME/VERSION, NAME@ALIAS, or NAME for NAME@staging. alias: to give it. reason: for the history.
        root: the project's folder. approved_by: who has approved it already.

    Raises:
        UserError: see `genforge.steps.aliases.promote`; or nobody has answered.
    """
    end_with_owner()
    project = Project.load(Path(root))
    if approved_by is None and aliases.needs_approval(project, alias):
        text = f"{model} waits for approval to become @{alias}: {reason}"
        notify("approval", text, {"model": model, "alias": alias})
        asked = Approval.with_initial_data(description=f"{text}. Resume with the name of who approves; else cancel.")
        answer: Any = pause_flow_run(asked, timeout=SECONDS_TO_ANSWER, poll_interval=SECONDS_BETWEEN_LOOKS)
        approved_by = answer.name
    return _ended("promoted", aliases.promote(project, model, alias, reason, approved_by))


@flow(name="rollback", persist_result=False)
def rollback(
    model: str | None = None, alias: str = "staging", to: int | None = None, reason: str = "by hand", root: str = "."
) -> Any:
    """Give an alias back to the version that held it before, or to version `to`. It waits for nobody.

    Raises:
        UserError: there is nothing to go back to.
    """
    end_with_owner()
    return _ended("rolled back", aliases.rollback(Project.load(Path(root)), model, alias, to, reason))


@flow(name="history", persist_result=False)
def history(model: str | None = None, alias: str | None = None, root: str = ".") -> Any:
    """Every move of an alias, or of all, oldest first, as a table among the artifacts."""
    end_with_owner()
    moves = aliases.history(Project.load(Path(root)), model, alias)
    shown = ("time", "model", "alias", "before", "after", "action", "who", "reason")
    table = [{key: move[key] for key in shown} for move in moves]
    create_table_artifact(table, key="history-of-aliases", description="who moved which alias when, and why")
    return Completed(message=aliases.in_words(moves[-1]) if moves else "no alias was ever moved")


@flow(name="compare", persist_result=False)
def compare(first: str, second: str, root: str = ".") -> Any:
    """Which of two models is better, and how sure that is: in words, as a table, and as a picture.

    Args:
        first, second: as `genforge compare` takes them. root: a project whose data are prepared.

    Raises:
        UserError: see `genforge.steps.compare.compare`.
    """
    end_with_owner()
    told = compare_step.compare(Project.load(Path(root)), first, second)
    create_table_artifact([{"name": name, **found} for name, found in told["metrics"].items()], key="comparison",
                          description=told["words"])  # fmt: skip
    for name in ("differences", "first", "second"):
        create_image_artifact(data_address(Path(told["page"]).parent / f"{name}.png"), key=f"comparison-{name}")
    return Completed(message=told["words"])


def _ended(event: str, move: dict[str, Any]) -> Any:
    text = aliases.in_words(move)
    notify_block(event, text)  # the step has told the webhook
    create_markdown_artifact(text, key=f"alias-{move['alias']}", description="who moved this alias, and why")
    return Completed(message=text)
