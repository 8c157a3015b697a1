"""The registered model loads and draws in a clean process, which has only what its own requirements name, and draws
there what was judged here."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason


class AloneSettings(GateSettings):
    images: int = Field(16, ge=1, le=500, description="how many it has to draw there")
    limit: float = Field(
        1.0,
        ge=0.0,
        description="levels of 0 to 255 by which they may differ on average from the judged ones: other "
        "batches round differently; of points, such steps of the plane from -1 to 1",
    )
    reason: Reason = "what is served must be what was judged, without this project"


class DrawsAlone(Gate):
    settings_type = AloneSettings

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        expected = candidate.images[0][: self.settings.images]
        found = candidate.alone(len(expected))
        evidence = {"seconds": found.seconds, "requirements": list(found.requirements), "problem": found.problem}
        if found.problem or found.images is None:
            return Finding(False, f"in a process with only its own requirements: {found.problem}", evidence)
        if found.images.shape != expected.shape or found.images.dtype != expected.dtype:
            words = f"it draws {found.images.dtype} {found.images.shape} there, not {expected.dtype} {expected.shape}"
            return Finding(False, words, evidence)
        level = 1.0 if expected.dtype == np.uint8 else 1 / 127.5
        apart = float(np.abs(found.images.astype(float) - expected).mean() / level)
        evidence["levels_apart"] = apart
        words = (
            f"with only its own {len(found.requirements)} requirements it loads and draws within "
            f"{found.seconds:.1f} s, {apart:.2f} levels from the judged images"
        )
        return Finding(apart <= self.settings.limit, words, evidence)
