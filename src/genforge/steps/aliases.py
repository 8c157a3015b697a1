"""Aliases moved and looked at by hand: behind `genforge promote`, `genforge rollback` and `genforge history`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from genforge.registry.alias_history import Move
from genforge.registry.registry import STAGING, Registry, names
from genforge.settings import UserError
from genforge.steps.project import Project
from genforge.webhook import tell

if TYPE_CHECKING:
    from rich.table import Table

_MODEL = re.compile(r"(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>[0-9]+))?")
LONGEST_REASON, LONGEST_NAME = 1000, 100  # characters


def promote(project: Project, model: str, alias: str, reason: str, approved_by: str | None = None) -> dict[str, Any]:
    """Give `alias` to a version, by compare-and-set: if another moves it meanwhile, nothing is changed.

    Args:
        model: `digits/3`, `digits@best-gan`, or `digits`, which is `digits@staging`.
        reason: for the history; required, since no gate has looked at it.
        approved_by: who has approved it, for the history; required for the aliases of `registry.approval`.

    Returns:
        The new entry of the history, with the model's name.

    Raises:
        UserError: there is no such model, version or alias; it holds the alias already; nobody has approved it who
            would have to; or somebody was faster.
    """
    approval, reason = checked_approval(project, alias, approved_by), _checked(reason)
    if not reason:
        raise UserError("--reason is empty; say why, for the history: no gate has looked at this move")
    found = _MODEL.fullmatch(model)
    if found is None:
        raise UserError(f"{model!r}: should be NAME, NAME@ALIAS or NAME/VERSION, such as digits@staging or digits/3")
    registry = _registry(project, found["name"])
    holders = {name: moves[-1].after for name, moves in _by_alias(registry.history()).items()}
    number = int(found["version"]) if found["version"] else holders.get(found["alias"] or STAGING)
    if number is None:
        held = ", ".join(f"{name} (version {version})" for name, version in sorted(holders.items()) if version)
        raise UserError(f"{model}: nothing is registered under this name; aliases of {registry.name}: {held or 'none'}")
    expected = holders.get(alias)
    if expected == number:
        raise UserError(f"{registry.name}@{alias} is version {number} already")
    evidence: dict[str, Any] = {"by": "hand", "candidate": registry.version(number).scores, **approval}
    if expected is not None:
        evidence["holder"] = registry.version(expected).scores
    return announced(_told(registry, registry.move(alias, number, expected, reason, evidence)))


def checked_approval(project: Project, alias: str, approved_by: str | None) -> dict[str, Any]:
    """What the history keeps of an approval: who and when; nothing where none was given.

    Raises:
        UserError: none was given, and `registry.approval` asks for one; or it names nobody.
    """
    if approved_by is None:
        if needs_approval(project, alias):
            raise UserError(
                f"{alias!r} moves only with somebody's approval (registry.approval in params.yaml); who has looked at "
                f"it says so with `--approve NAME`"
            )
        return {}
    name = " ".join(approved_by.split())
    if not name or len(name) > LONGEST_NAME:
        raise UserError(f"--approve {approved_by!r}: should be the name of who has approved it, in {LONGEST_NAME} "
                        f"characters at most")  # fmt: skip
    return {"approval": {"by": name, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}}


def needs_approval(project: Project, alias: str) -> bool:
    """Whether a person has to approve before this alias moves."""
    return alias in project.config.registry.approval


def rollback(project: Project, model: str | None, alias: str, to: int | None, reason: str) -> dict[str, Any]:
    """Give `alias` back to the version that held it before its last move, or to version `to`, which held it once.

    Args:
        model: the registered model's name; None: the one of params.yaml.

    Returns:
        The new entry of the history, with the model's name.

    Raises:
        UserError: there is no such model, or nothing to go back to.
    """
    registry = _registry(project, model)
    return announced(_told(registry, registry.rollback(alias, to, _checked(reason))))


def history(project: Project, model: str | None, alias: str | None) -> list[dict[str, Any]]:
    """Every move of an alias, or of all, oldest first; none while no alias of the model has moved.

    Raises:
        UserError: nothing is registered as `model`, or others have moved and `alias` never.
    """
    registry = _registry(project, model)
    moves = registry.history()
    moved = sorted({move.alias for move in moves})
    if alias is not None and moved and alias not in moved:
        raise UserError(f"no alias {alias!r} of {registry.name} has ever moved; those that have: {', '.join(moved)}")
    return [_told(registry, move) for move in moves if alias in (None, move.alias)]


def moves_table(moves: Iterable[dict[str, Any]]) -> Table:
    """Entries of the history, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("time (UTC)", "alias", "from", "to", "action", "who", "reason")
    for move in moves:
        cells = (move["time"], f"{move['model']}@{move['alias']}", move["before"], move["after"], move["action"])
        reason = move["reason"] + _approved(move)
        table.add_row(*(escape("-" if cell is None else str(cell)) for cell in (*cells, move["who"], reason)))
    return table


def announced(move: dict[str, Any]) -> dict[str, Any]:
    """The entry, after whoever wants to know has been told of it (`genforge.webhook`)."""
    event = "rolled back" if move["action"] == "rollback" else "promoted"
    facts = {key: move[key] for key in ("model", "alias", "before", "after", "who", "time", "reason")}
    tell(event, in_words(move), facts)
    return move


def in_words(move: Mapping[str, Any]) -> str:
    """An entry in a sentence."""
    before = "" if move["before"] is None else f" from version {move['before']}"
    after = "no version" if move["after"] is None else f"version {move['after']}"
    return f"{move['model']}@{move['alias']} moves{before} to {after} (by {move['who']}): {move['reason']}" + _approved(
        move
    )


def _approved(move: Mapping[str, Any]) -> str:
    approval = move["evidence"].get("approval")
    return f" (approved by {approval['by']}, {approval['at']})" if approval else ""


def _checked(reason: str) -> str:
    reason = reason.strip()
    if len(reason) > LONGEST_REASON:
        raise UserError(f"--reason has {len(reason)} characters; {LONGEST_REASON} is the most: put the rest elsewhere")
    return reason


def _registry(project: Project, model: str | None) -> Registry:
    """Of the model of params.yaml, which need not be registered yet, or of another, which must be."""
    if model in (None, project.config.data.name):
        return Registry(project.root, project.config.data.name)
    known = names(project.root)
    if model not in known:
        there = f"what is: {', '.join(known)}" if known else "nor is anything else here yet; `genforge run` does that"
        raise UserError(f"nothing is registered as {model!r}; {there}")
    return Registry(project.root, model)


def _by_alias(moves: Iterable[Move]) -> dict[str, list[Move]]:
    grouped: dict[str, list[Move]] = {}
    for move in moves:
        grouped.setdefault(move.alias, []).append(move)
    return grouped


def _told(registry: Registry, move: Move) -> dict[str, Any]:
    """The entry with the model's name."""
    return {"model": registry.name, **asdict(move)}
