"""The library of ready recipes, as rows for people and for programs; and any one of them in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genforge.catalog import LIBRARY, library, read_library, resolve

if TYPE_CHECKING:
    from rich.console import Group


def list_recipes() -> list[dict[str, Any]]:
    """One row a recipe of the library: name, family, networks, objective, sampler, description, source."""
    rows = []
    for name in library():
        recipe = resolve(name, {"from": name})
        rows.append(
            {
                "name": name,
                "family": recipe.family,
                "networks": {role: choice["name"] for role, choice in recipe.networks.items()},
                "objective": recipe.objective["name"],
                "sampler": recipe.sampler["name"],
                "description": recipe.description,
                "source": recipe.source,
            }
        )
    return sorted(rows, key=lambda row: (row["family"], row["name"]))


def recipes_table(rows: list[dict[str, Any]]) -> Group:
    """The rows as a table for a terminal, a line a recipe where it is wide enough."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("recipe", "family", "what it is"):
        table.add_column(title)
    for row in rows:
        table.add_row(row["name"], row["family"], row["description"])
    return Group(table, Text("\n`genforge recipes NAME` shows one with its source, its networks and all that it sets"))


def text_of(name: str) -> str:
    """A recipe of the library as it is written, comments and all.

    Raises:
        UserError: there is none of this name.
    """
    read_library(name, "genforge recipes")
    return (LIBRARY / f"{name}.yaml").read_text("utf-8")


def in_full(name: str) -> dict[str, Any]:
    """The same with every default filled in: all keys that an entry of params.yaml may override.

    Raises:
        UserError: there is none of this name.
    """
    read_library(name, "genforge recipes")
    return resolve(name, {"from": name}).model_dump(mode="json")
