"""The library of ready recipes, as rows for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genforge.catalog import library, resolve

if TYPE_CHECKING:
    from rich.table import Table


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


def recipes_table(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table for a terminal."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("recipe", "family", "networks", "objective", "sampler", "what it is, and its source"):
        table.add_column(title)
    for row in rows:
        networks = "\n".join(row["networks"].values())
        about = f"{row['description']}\n{row['source']}"
        table.add_row(row["name"], row["family"], networks, row["objective"], row["sampler"], about)
    return table
