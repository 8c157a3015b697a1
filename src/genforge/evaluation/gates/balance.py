"""Every class of the data is drawn about as often as the data has it.

Assumed: the shares of the training split's labels are what is wanted. Classes of samples are named by the judge's
classifier, whose mistakes are counted as the model's. A class fails when the exact interval of its share, all classes
together, lies wholly outside of the limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from genforge.evaluation.gates.gate import Candidate, Finding, Gate, GateSettings, Ground, Holder, Reason
from genforge.evaluation.proportions import same_shares, shares


class BalanceSettings(GateSettings):
    limit: float = Field(
        0.5, gt=0.0, le=1.0, description="a class may be drawn this times as often as the data has it, or 1 / this"
    )
    confidence: float = Field(0.95, ge=0.5, lt=1.0, description="of the intervals of all classes together")
    reason: Reason = "no class of the data may be forgotten"


class ClassBalance(Gate):
    settings_type = BalanceSettings

    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        logits, labels = candidate.all_seen.logits, ground.training_labels
        if labels is None or logits is None or not candidate.all_seen.are_told(len(ground.classes)):
            return Finding(True, "the data or the judge names no classes, so that none can be forgotten")
        wanted = np.bincount(labels, minlength=len(ground.classes)) / len(labels)
        counts = np.bincount(logits.argmax(axis=1), minlength=len(ground.classes))
        bounds, limit = shares(counts, self.settings.confidence), self.settings.limit
        rows: list[dict[str, Any]] = [
            {"class": name, "data": float(data), "drawn": float(drawn), "low": float(low), "high": float(high)}
            for name, data, drawn, (low, high) in zip(
                ground.classes, wanted, counts / counts.sum(), bounds, strict=True
            )
        ]
        outside = [row for row in rows if row["high"] < limit * row["data"] or row["low"] > row["data"] / limit]
        evidence = {
            "classes": rows,
            "images": int(counts.sum()),
            "p_value_of_equal_shares": same_shares(counts, wanted),
        }
        if outside:
            said = ", ".join(f"{row['class']} {row['drawn']:.1%} (data {row['data']:.1%})" for row in outside)
            return Finding(False, f"drawn too rarely or too often: {said}", evidence)
        least = min((row for row in rows if row["data"]), key=lambda row: row["drawn"] / row["data"])
        return Finding(
            True,
            f"every class is drawn; furthest behind is {least['class']} with {least['drawn']:.1%} (data "
            f"{least['data']:.1%})",
            evidence,
        )
