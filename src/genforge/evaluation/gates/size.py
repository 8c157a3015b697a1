"""The model's weights are small enough to be kept and sent."""

from __future__ import annotations

from pydantic import Field

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason


class SizeSettings(GateSettings):
    limit: float = Field(500.0, gt=0.0, description="megabytes (10^6 bytes) of weights, at most")
    reason: Reason = "every version is kept, and every server loads it"


class Size(Gate):
    settings_type = SizeSettings

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        size, limit = candidate.megabytes, self.settings.limit
        return Finding(size <= limit, f"{size:,.2f} MB of weights, where {limit:g} may be", {"megabytes": size})
