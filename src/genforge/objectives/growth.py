"""How networks grow while they train (Karras et al. 2018, section 2): each size is trained for a while, then the next
one fades in.

In turns of the critic, so that it goes on where it was when a run is resumed.
"""

from __future__ import annotations

from pydantic import Field

from genforge.settings import Settings


class GrowthSettings(Settings):
    """The paper: 800,000 images each."""

    hold: int = Field(
        400, ge=1, description="turns of the critic for which a size is trained before the next one comes"
    )
    fade: int = Field(400, ge=1, description="turns of the critic in which the next size fades in")


def stage_at(turn: int, growth: GrowthSettings, stages: int) -> float:
    """The stage in turn number `turn` of the critic (from 0): 0 for the first `hold` turns, in the next `fade` ones
    linearly up to 1, and so on; from `stages` on it stays."""
    whole, into = divmod(turn, growth.hold + growth.fade)
    faded = max(0.0, (into - growth.hold + 1) / growth.fade)
    return min(whole + faded, float(stages))


def turns_to_grow(growth: GrowthSettings, stages: int) -> int:
    """Turns of the critic before the networks are fully grown."""
    return stages * (growth.hold + growth.fade)
