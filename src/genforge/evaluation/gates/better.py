"""The model is better than the alias's holder by the project's metric, with a probability and a margin."""

from __future__ import annotations

from pydantic import Field

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason
from genforge.evaluation.metrics import metric as metric_of
from genforge.evaluation.uncertainty import SURE, compare


class BetterSettings(GateSettings):
    probability: float = Field(SURE, ge=0.5, lt=1.0, description="that it is better, at least; see uncertainty.py")
    margin: float = Field(0.0, ge=0.0, description="by how much it has to be better, in units of registry.metric")
    reason: Reason = "an alias moves to what is better, not to what was lucky"


class Better(Gate):
    settings_type = BetterSettings
    compares = True

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        if holder is None:
            return Finding(True, "nobody to compare with")
        found = compare(ground.statistic, candidate.seen, holder.seen, self.settings.margin)
        shown = metric_of(ground.metric)
        by = f" by more than {shown.show(self.settings.margin)}" if self.settings.margin else ""
        words = (
            f"{shown.title} {shown.show(found.first)} against {shown.show(found.second)} of {holder.name}: better{by} "
            f"with probability {found.probability:.3f}, where {self.settings.probability:g} is asked for"
        )
        return Finding(found.probability >= self.settings.probability, words, found.to_json())
