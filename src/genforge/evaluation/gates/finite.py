"""Everything about the model is a number: its weights, what was measured of it, and what the judge sees in its
images."""

from __future__ import annotations

import math

import numpy as np

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason


class FiniteSettings(GateSettings):
    reason: Reason = "NaN is a failure, never a number"


class Finite(Gate):
    settings_type = FiniteSettings

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        bad = [f"weights {name}" for name, values in candidate.tensors().items() if not np.isfinite(values).all()]
        bad += [name for name, value in candidate.numbers.items() if not math.isfinite(value)]
        try:
            candidate.seen  # noqa: B018  an extractor refuses to give features that are not finite
        except ValueError as error:
            bad.append(str(error))
        evidence = {"not_finite": bad, "numbers": len(candidate.numbers)}
        if bad:
            return Finding(False, f"not finite: {', '.join(bad[:5])}{' and more' if len(bad) > 5 else ''}", evidence)
        return Finding(True, "weights, metrics and features are finite", evidence)
