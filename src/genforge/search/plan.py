"""What a search is asked for and what it gives: plain values that cross between processes and into files.

A search turns settings (`space`), beginning with the recipe's own (`defaults`), and compares trials by one number. Its
first trial has the defaults and is never pruned, so a search cannot return anything worse than they are by its own
measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from genforge.dimension import Dimension, Method
from genforge.settings import Settings, UserError

MOST_STARTUP = 4  # finished trials before suggestions follow them; Optuna's ten would take most of a search

Value = bool | int | float | str
State = Literal["complete", "pruned", "failed"]


class Pruned(Exception):
    """Raised out of `Trial.report`: the trial is not worth more time. The objective lets it pass through."""


class Lost(Exception):
    """Raised out of `Trial.report`: another worker has taken up the trial, for this one gave no sign of life in time.
    The objective lets it pass through; what it still does counts nowhere."""


class Plan(Settings):
    """One search, in plain values that cross to the workers as JSON."""

    name: str = Field(description="of the search, for messages: the recipe's")
    space: dict[str, Dimension] = Field(min_length=1, description="dotted settings to ranges or choices")
    defaults: dict[str, Value] = Field(description="the value of each of these settings in the first trial")
    portfolio: list[dict[str, Value]] = Field(
        default_factory=list, description="settings that did well on other data, within the space: tried next"
    )
    objective: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="`module:function`, called once in every worker with `arguments`; what it returns is called with "
        "every `Trial` and returns the value",
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="for the objective; plain values")
    measure: str = Field("value", description="what the value is called, on pages")
    better: Literal["lower", "higher"] = Field(description="which values are better: a property of the metric")
    trials: int = Field(ge=1, description="how many, exactly")
    method: Method = Field("gaussian-process", description="what suggests settings, once a few trials are known")
    seed: int = Field(ge=0, description="decides every suggestion, given the values of the trials before")
    lease: float = Field(
        300.0, gt=0.0, description="seconds without a sign of life after which another machine's worker is dead"
    )

    def check(self) -> None:
        """Raises UserError when a default is no value of its setting, so that no trial could have the defaults."""
        where = f"recipes.{self.name}.search.space"
        if self.defaults.keys() != self.space.keys():
            raise ValueError(f"{where}: the defaults name {sorted(self.defaults)}, the space {sorted(self.space)}")
        for key, dimension in self.space.items():
            check_dimension(f"{where}.{key}", dimension, self.defaults[key])

    @property
    def startup(self) -> int:
        """How many trials are chosen before anything is known: a third of them, or half with a portfolio, which knows
        more than the few values that there would be."""
        return max(2, min(MOST_STARTUP, self.trials // 3), min(1 + len(self.portfolio), self.trials // 2))

    def wants_scipy(self, number: int) -> bool:
        """Whether the suggestion of this trial imports SciPy's optimisers and distributions, which take most of a
        second."""
        return self.method == "gaussian-process" and number >= self.startup

    def best(self, rows: list[Row]) -> Row | None:
        """The complete row with the best value, the earliest of equals; None when no trial is complete."""
        sign = 1.0 if self.better == "lower" else -1.0
        complete = [row for row in rows if row.state == "complete" and row.value is not None]
        return min(complete, key=lambda row: (sign * (row.value or 0.0), row.number), default=None)


@dataclass(frozen=True)
class Row:
    """One trial, finished.

    value: of a complete trial, or the last one reported by a pruned trial. reports: value by step. seconds: of work,
    attempts that were killed included. reason: why it failed, else empty.
    """

    number: int
    state: State
    value: float | None
    settings: Mapping[str, Value]
    seconds: float
    reason: str = ""
    reports: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The end of a search.

    importances: share of each setting in what decides between good and bad trials, summing to 1; empty when there is
    too little to tell, and then `note` says why.
    """

    rows: list[Row]
    best: Row
    importances: dict[str, float]
    note: str = ""


def check_dimension(where: str, dimension: Dimension, default: Value) -> None:
    """Raises UserError when a setting's default is nothing that a search of it could come to."""
    if not dimension.holds(default):
        raise UserError(
            f"{where}: {dimension.rule()}, which the recipe's own value {default!r} is not; widen it, for the first "
            f"trial tries that value, or set the key to null to leave it out of the search"
        )
