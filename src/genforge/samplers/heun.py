"""Heun's method on the probability-flow ODE (Karras et al. 2022, Algorithm 1): second order, two evaluations a step.

An Euler step tries the way, and the step is taken anew with the mean of the slopes at both ends. The last step, to
noise level zero, is Euler's with one evaluation, as in the paper. No fresh noise: their Algorithm 2 is not here.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from genforge.samplers.diffusion import DiffusionSampler, Step
from genforge.samplers.euler import euler
from genforge.samplers.paths import OdeSettings, velocity
from genforge.settings import Settings


class Heun(DiffusionSampler):
    settings_type: ClassVar[type[Settings]] = OdeSettings
    settings: OdeSettings

    def step(self, at: Step) -> Tensor:
        path = self.settings.path_of(at)
        slope = velocity(path, at.sigma, at.clean, at.noise)
        tried = euler(at, path, slope)
        clean = at.denoise(tried, at.following)
        there = velocity(path, at.following, clean, (tried - clean) / at.following)
        return euler(at, path, (slope + there) / 2)
