"""The model draws fast enough, on the machine that drew its samples."""

from __future__ import annotations

from pydantic import Field

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason


class SpeedSettings(GateSettings):
    limit: float = Field(5.0, ge=0.0, description="images a second, at least")
    reason: Reason = "whoever draws should not have to wait"


class Speed(Gate):
    settings_type = SpeedSettings

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        speed, limit = candidate.images_per_second, self.settings.limit
        words = f"{speed:,.1f} images a second, where {limit:g} are asked for"
        return Finding(speed >= limit, words, {"images_per_second": speed})
