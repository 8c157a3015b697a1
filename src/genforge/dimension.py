"""One setting that a search may turn, and what may suggest its values. A file of its own, so that a search's worker
need not import the catalog."""

from __future__ import annotations

import math
from typing import Any, Literal

from genforge.settings import Settings

Method = Literal["gaussian-process", "tpe", "random"]


class Dimension(Settings):
    """One setting that a search may turn: either `low` and `high` (with `log`), or `choices`."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[bool | int | float | str, ...] | None = None

    def model_post_init(self, context: Any) -> None:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("either `low` and `high`, or `choices`")
        if self.choices is not None and not self.choices:
            raise ValueError("at least one of `choices`")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low below high, not {self.low} and {self.high}")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(f"low above 0 with `log: true`, not {self.low}")

    def examples(self) -> tuple[bool | int | float | str, ...]:
        """Every choice, or both ends of the range and one value between."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None and self.high is not None
        between = self.low + 1 if self._whole() else self.low + 0.382 * (self.high - self.low)
        return (self.low, between, self.high)

    def at(self, place: float) -> bool | int | float | str:
        """The value at a place in [0, 1): even over the range, or over its logarithms with `log`; choices by number."""
        if self.choices is not None:
            return self.choices[min(int(place * len(self.choices)), len(self.choices) - 1)]
        low, high = self._ends()
        value = low + place * (high - low)
        value = math.exp(value) if self.log else value
        assert self.low is not None and self.high is not None
        if self._whole():
            return min(max(int(value), self.low), self.high)
        return min(max(value, self.low), self.high)

    def place(self, value: bool | int | float | str) -> float:
        """Where a value stands in [0, 1], the middle of its cell for a whole number or a choice: what `at` undoes.

        Raises:
            ValueError: it is none of the choices.
        """
        if self.choices is not None:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high = self._ends()
        number = float(value) + 0.5 * self._whole()
        return ((math.log(number) if self.log else number) - low) / (high - low)

    def holds(self, value: bool | int | float | str) -> bool:
        """Whether a search of it could come to this value."""
        if self.choices is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if isinstance(value, bool | str) or (self._whole() and not isinstance(value, int)):
            return False
        assert self.low is not None and self.high is not None
        return self.low <= value <= self.high

    def rule(self) -> str:
        """What `holds` asks for, in words."""
        if self.choices is not None:
            return f"one of {', '.join(map(repr, self.choices))}"
        return f"a {'whole ' * self._whole()}number from {self.low!r} to {self.high!r}"

    def _ends(self) -> tuple[float, float]:
        """Of the range as its scale has it; a whole number is a cell as wide as one."""
        assert self.low is not None and self.high is not None
        low, high = float(self.low), float(self.high) + self._whole()
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def _whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)
