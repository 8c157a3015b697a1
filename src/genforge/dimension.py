"""One setting that a search may turn, and what may suggest its values. A file of its own, so that a search's worker
need not import the catalog."""

from __future__ import annotations

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
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        between = self.low + 1 if whole else self.low + 0.382 * (self.high - self.low)
        return (self.low, between, self.high)
