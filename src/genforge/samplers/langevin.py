"""Langevin dynamics: downhill on the energy, with as much noise as makes a distribution of it.

    x <- x - step^2 / 2 * dE/dx + step * normal noise

Its stationary distribution is exp(-E) but for terms in step^2 (Welling & Teh 2011, "Bayesian learning via stochastic
gradient Langevin dynamics", eq. 3). Training an energy takes the same walk. Where the landscape is too steep for the
step, downhill becomes over the valley and up its other side; a limit on how far slopes may move a value, which Du &
Mordatch 2019 use too, keeps a walk from running away there, and elsewhere changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import Draw, Network, Sampler
from genforge.samplers.drawing import begin
from genforge.settings import Settings


class LangevinSettings(Settings):
    steps: int = Field(200, ge=1, le=100_000, description="steps of each chain, a gradient of the energy each")
    step_size: float = Field(
        0.03, gt=0.0, le=1.0, description="standard deviation of each step's noise, of pixels in [-1, 1]"
    )
    limit: float | None = Field(
        None,
        gt=0.0,
        le=2.0,
        description="how far the slope may move a pixel in one step, as in training; null: any way",
    )
    cooling: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="share of the steps, the last ones, over which the noise falls to none: cleaner images, of a "
        "sharper distribution than the energy's; 0: none",
    )


class Langevin(Sampler):
    """Chains from uniform noise over [-1, 1]."""

    kinds: ClassVar[tuple[str, ...]] = ("energy",)
    settings_type = LangevinSettings

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, LangevinSettings)
        super().__init__(settings)
        self.steps, self.step_size, self.cooling = settings.steps, settings.step_size, settings.cooling
        self.limit = settings.limit

    def sample(self, network: Network, draw: Draw) -> Tensor:
        indices, labels = begin(network, draw)
        image = network.port.image
        shape = (image.channels, image.height, image.width)
        cooled = round(self.cooling * self.steps)

        def noise(step: int) -> Tensor:
            warmth = min(1.0, (self.steps - step) / (cooled + 1)) if cooled else 1.0
            return warmth * randomness.normal(draw.seed, indices, shape, stream=step + 1)

        start = 2 * randomness.uniform(draw.seed, indices, shape) - 1
        return walk(lambda x: network(x, labels), start, self.steps, self.step_size, noise, self.limit)


def walk(
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    steps: int,
    step_size: float,
    noise: Callable[[int], Tensor],
    limit: float | None = None,
) -> Tensor:
    """Where Langevin dynamics lead from x, (n, ...), detached.

    Args:
        energy: (n, ...) to (n,), each of its own. noise: of a step, counted from 0: standard normal, like x.
        limit: how far the slope may move a value in one step.
    """
    for step in range(steps):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(x).sum(), x)
        move = step_size**2 / 2 * slope
        if limit is not None:
            move = move.clamp(-limit, limit)
        x = x.detach() - move + step_size * noise(step)
    return x.detach()
