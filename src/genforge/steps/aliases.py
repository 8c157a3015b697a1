"""Aliases moved and looked at by hand: behind `genforge promote`, `genforge rollback` and `genforge history`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from genforge.registry.alias_history import Move
from genforge.registry.registry import STAGING, Registry
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.table import Table

_MODEL = re.compile(r"(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>[0-9]+))?")
LONGEST_REASON = 1000  # characters


def promote(project: Project, model: str, alias: str, reason: str) -> dict[str, Any]:
    """Give `alias` to a version, by compare-and-set: if another moves it meanwhile, nothing is changed.

    Args:
        model: `digits/3`, `digits@best-gan`, or `digits`, which is `digits@staging`.
        reason: for the history; required, since no gate has looked at it.

    Returns:
        The new entry of the history, with the model's name.

    Raises:
        UserError: there is no such model, version or alias; it holds the alias already; or somebody was faster.
    """
    found = _MODEL.fullmatch(model)
    if found is None:
        raise UserError(f"{model!r}: should be NAME, NAME@ALIAS or NAME/VERSION, such as digits@staging or digits/3")
    registry = Registry(project.root, found["name"])
    holders = {name: moves[-1].after for name, moves in _by_alias(registry.history()).items()}
    number = int(found["version"]) if found["version"] else holders.get(found["alias"] or STAGING)
    if number is None:
        held = ", ".join(f"{name} (version {version})" for name, version in sorted(holders.items()) if version)
        raise UserError(f"{model}: nothing is registered under this name; aliases of {registry.name}: {held or 'none'}")
    expected = holders.get(alias)
    if expected == number:
        raise UserError(f"{registry.name}@{alias} is version {number} already")
    evidence = {"by": "hand", "candidate": registry.version(number).scores}
    if expected is not None:
        evidence["holder"] = registry.version(expected).scores
    return _told(registry, registry.move(alias, number, expected, _checked(reason), evidence))


def rollback(project: Project, model: str | None, alias: str, to: int | None, reason: str) -> dict[str, Any]:
    """Give `alias` back to the version that held it before its last move, or to version `to`, which held it once.

    Args:
        model: the registered model's name; None: the one of params.yaml.

    Returns:
        The new entry of the history, with the model's name.

    Raises:
        UserError: there is nothing to go back to.
    """
    registry = Registry(project.root, model or project.config.data.name)
    return _told(registry, registry.rollback(alias, to, _checked(reason)))


def history(project: Project, model: str | None, alias: str | None) -> list[dict[str, Any]]:
    """Every move of an alias, or of all, oldest first."""
    registry = Registry(project.root, model or project.config.data.name)
    return [_told(registry, move) for move in registry.history(alias)]


def moves_table(moves: Iterable[dict[str, Any]]) -> Table:
    """Entries of the history, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("time (UTC)", "alias", "from", "to", "action", "who", "reason")
    for move in moves:
        cells = (move["time"], f"{move['model']}@{move['alias']}", move["before"], move["after"], move["action"])
        table.add_row(*(escape("-" if cell is None else str(cell)) for cell in (*cells, move["who"], move["reason"])))
    return table


def _checked(reason: str) -> str:
    if len(reason) > LONGEST_REASON:
        raise UserError(f"--reason has {len(reason)} characters; {LONGEST_REASON} is the most: put the rest elsewhere")
    return reason


def _by_alias(moves: Iterable[Move]) -> dict[str, list[Move]]:
    grouped: dict[str, list[Move]] = {}
    for move in moves:
        grouped.setdefault(move.alias, []).append(move)
    return grouped


def _told(registry: Registry, move: Move) -> dict[str, Any]:
    return {"model": registry.name, **asdict(move)}
