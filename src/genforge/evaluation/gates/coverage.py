"""The model reaches as much of the data as the alias's holder does: a better FID must not be bought with variety."""

from __future__ import annotations

from pydantic import Field

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason
from genforge.evaluation.measures.neighbours import COVERAGE
from genforge.evaluation.statistics import statistic_of
from genforge.evaluation.uncertainty import compare


class CoverageSettings(GateSettings):
    limit: float = Field(0.05, ge=0.0, le=1.0, description="by how much coverage may be lower than the holder's")
    probability: float = Field(0.95, ge=0.5, lt=1.0, description="that it is not lower by more than that")
    reason: Reason = "quality must not be bought with variety"


class CoverageNotWorse(Gate):
    settings_type = CoverageSettings
    compares = True

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        if holder is None:
            return Finding(True, "nobody to compare with")
        found = compare(
            statistic_of(COVERAGE, ground.reference), candidate.seen, holder.seen, margin=-self.settings.limit
        )
        words = (
            f"coverage {found.first:.3f} against {found.second:.3f} of {holder.name}: not lower by more than "
            f"{self.settings.limit:g} with probability {found.probability:.3f}, where {self.settings.probability:g} is "
            f"asked for"
        )
        return Finding(found.probability >= self.settings.probability, words, found.to_json())
