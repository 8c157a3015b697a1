"""The doctor: what the dead have left, and what is wrong with the place, mended where that can be done.

Each room that keeps state between processes finds its own leftovers (see `genforge.leftovers`); here they are asked,
told of, and mended one after the other. Finding changes nothing. A finder that cannot look (its store is away) is told
of as well: nobody knows then whether all is well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genforge.config import load
from genforge.leftovers import Leftover
from genforge.progress import say
from genforge.settings import UserError
from genforge.steps import environment, workplaces
from genforge.steps.environment import Check

if TYPE_CHECKING:
    from rich.table import Table

Finder = Callable[[Path], Iterator[Leftover]]
MOST_ROUNDS = 3  # of looking and mending: what was mended can bring another thing to light


@dataclass
class Finding:
    """A leftover, and what has become of it. problem: why it could not be mended."""

    leftover: Leftover
    outcome: Literal["found", "mended", "not mended"] = "found"
    problem: str = ""

    def to_json(self) -> dict[str, str]:
        told = self.leftover
        return {
            "kind": told.kind,
            "place": told.place,
            "what": told.what,
            "remedy": told.remedy,
            "outcome": self.outcome,
            "problem": self.problem,
        }


@dataclass
class Examination:
    """All that was found. blind: rooms that could not look, and why."""

    root: Path
    findings: list[Finding]
    blind: dict[str, str]
    checks: list[Check]

    @property
    def is_healthy(self) -> bool:
        """True when nothing was found, or all of it is mended."""
        return not (
            self.blind
            or any(finding.outcome != "mended" for finding in self.findings)
            or any(check.verdict == "wrong" for check in self.checks)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "healthy": self.is_healthy,
            "findings": [finding.to_json() for finding in self.findings],
            "blind": self.blind,
            "checks": [{"name": check.name, "verdict": check.verdict, "text": check.text} for check in self.checks],
        }


def finders() -> dict[str, Finder]:
    """Every room's finder, by the room's name, in the order in which they are asked and mended: the living first."""
    from genforge.registry.leftovers import find as models
    from genforge.steps.leftovers import find as stages
    from genforge.tracking.leftovers import find as runs
    from genforge.training.leftovers import find as checkpoints

    return {
        "processes": stages,
        "search": _searches,
        "training": checkpoints,
        "tracking": runs,
        "registry": models,
        "workplaces": _workplaces,
    }


def _workplaces(root: Path) -> Iterator[Leftover]:
    """What killed scheduled runs have left in their clones; the registry is the project's own."""
    rooms = {name: find for name, find in finders().items() if name not in ("workplaces", "registry")}
    return workplaces.find(root, rooms)


def _searches(root: Path) -> Iterator[Leftover]:
    """What searches have left, by the lease that this project gives their workers."""
    from genforge.search.leftovers import find

    return find(root, load(root / "params.yaml").search.lease)


def examine(root: Path) -> Examination:
    """Look everywhere, change nothing.

    Raises:
        UserError: `root` holds no params.yaml, so it is no project.
    """
    if not (root / "params.yaml").is_file():
        raise UserError(f"{root.resolve()} holds no params.yaml; run genforge in the project's folder")
    leftovers, blind = _look(root)
    return Examination(root, [Finding(leftover) for leftover in leftovers], blind, list(environment.checks(root)))


def mend(examination: Examination, tell: Callable[[str], None] = say) -> None:
    """Mend what was found, one after the other, each announced before it is done; then look again, since a thing is
    mended when it is found no more. The examination is brought up to date."""
    todo = list(examination.findings)
    for _ in range(MOST_ROUNDS):
        for finding in todo:
            _mend(finding, tell)
        leftovers, examination.blind = _look(examination.root)
        still = {(leftover.kind, leftover.place) for leftover in leftovers}
        known = {(finding.leftover.kind, finding.leftover.place): finding for finding in examination.findings}
        for key, finding in known.items():
            if finding.outcome == "mended" and key in still:
                finding.outcome, finding.problem = "not mended", "it is still there"
        todo = [Finding(leftover) for leftover in leftovers if (leftover.kind, leftover.place) not in known]
        examination.findings += todo
        if not todo:
            return


def _look(root: Path) -> tuple[list[Leftover], dict[str, str]]:
    leftovers: list[Leftover] = []
    blind: dict[str, str] = {}
    for room, find in finders().items():
        try:
            leftovers += find(root)
        except (UserError, OSError) as error:
            blind[room] = str(error)
    return leftovers, blind


def _mend(finding: Finding, tell: Callable[[str], None]) -> None:
    leftover = finding.leftover
    tell(f"{leftover.kind} {leftover.place}: {leftover.remedy}")
    try:
        leftover.mend()
    except (UserError, OSError) as error:
        finding.outcome, finding.problem = "not mended", str(error)
        tell(f"{leftover.kind} {leftover.place}: not mended: {error}")
    else:
        finding.outcome = "mended"


def findings_table(examination: Examination) -> Table:
    """What was found, for a terminal: kind, place, what is wrong, and what `--fix` would do or has done."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("kind", "place", "what is wrong", "what `--fix` does"):
        table.add_column(heading, overflow="fold")
    for finding in examination.findings:
        told = finding.leftover
        place = told.place.removeprefix(f"{examination.root}/")
        outcome = {"found": "", "mended": " (done)", "not mended": f" (NOT DONE: {finding.problem})"}[finding.outcome]
        table.add_row(*(escape(text) for text in (told.kind, place, told.what, told.remedy + outcome)))
    for room, reason in examination.blind.items():
        table.add_row("unseen", room, escape(reason), "nothing: look again when this is mended")
    return table


def checks_table(examination: Examination) -> Table:
    """What there is to say about the place, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    styles = {"fine": "green", "note": "dim", "wrong": "bold red"}
    for check in examination.checks:
        table.add_row(f"[{styles[check.verdict]}]{check.verdict}[/]", check.name, escape(check.text))
    return table


def headline(examination: Examination) -> str:
    """The examination in one line."""
    outcomes = [finding.outcome for finding in examination.findings]
    wrong = sum(check.verdict == "wrong" for check in examination.checks)
    parts = [
        f"{outcomes.count('mended')} mended" if "mended" in outcomes else "",
        f"{outcomes.count('found')} found: `genforge doctor --fix` mends them" if "found" in outcomes else "",
        f"{outcomes.count('not mended')} could not be mended" if "not mended" in outcomes else "",
        f"{len(examination.blind)} places could not be looked at" if examination.blind else "",
        f"{wrong} things are wrong that only you can mend" if wrong else "",
    ]
    return "; ".join(part for part in parts if part) or "nothing is wrong"
