"""The model draws images of its own, see `evaluation/memorization.py`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason
from genforge.evaluation.memorization import data_copying, nearest
from genforge.evaluation.proportions import lower_bound


class CopiesSettings(GateSettings):
    limit: float = Field(
        0.01, ge=0.0, lt=1.0, description="share of samples that may be near copies beyond the share of held-out images"
    )
    lowest: float = Field(
        -3.0, lt=0.0, description="of the statistic C_T: on average three standard deviations a cell of the data"
    )
    reason: Reason = "a model must not give away what it was trained on"


class NoCopies(Gate):
    settings_type = CopiesSettings

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        features = candidate.all_seen.features
        found = nearest(features, ground.reference.features)
        copies, count = int(found.copies.sum()), len(features)
        usual = float(ground.held_out_nearest.copies.mean())
        proven = lower_bound(copies, count)
        evidence: dict[str, Any] = {
            "near_copies": copies,
            "images": count,
            "share": copies / count,
            "share_at_least": proven,
            "share_of_held_out": usual,
        }
        words = f"near copies of training images: {copies / count:.1%}, of held-out images {usual:.1%}"
        try:
            test = data_copying(features, ground.held_out_seen.features, ground.reference.features)
        except ValueError as error:
            return Finding(False, f"{words}; {error}", evidence)
        evidence |= {"c_t": test.statistic, "c_t_cells": list(test.cells), "p_value": test.p_value}
        words += f"; C_T {test.statistic:+.1f}, where {self.settings.lowest:g} is the lowest"
        passed = proven <= usual + self.settings.limit and test.statistic >= self.settings.lowest
        return Finding(passed, words, evidence)
