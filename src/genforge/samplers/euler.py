"""Euler's method on the probability-flow ODE: first order, one evaluation a step.

On the exploding and the straight path it is the same step, DDIM without fresh noise; on the preserving path it is one
of its own.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from genforge.networks.denoiser import PathName
from genforge.samplers.diffusion import DiffusionSampler, Step
from genforge.samplers.paths import OdeSettings, clock, scale, velocity
from genforge.settings import Settings


class Euler(DiffusionSampler):
    settings_type: ClassVar[type[Settings]] = OdeSettings
    settings: OdeSettings

    def step(self, at: Step) -> Tensor:
        path = self.settings.path_of(at)
        return euler(at, path, velocity(path, at.sigma, at.clean, at.noise))


def euler(at: Step, path: PathName, slope: Tensor) -> Tensor:
    """The images at `at.following` when dx / du is `slope` all the way, (n, c, h, w)."""
    time = clock(path, at.following) - clock(path, at.sigma)
    return (scale(path, at.sigma) * at.noisy + time * slope) / scale(path, at.following)
