"""Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16).

Without fresh noise (eta 0) a step is Euler's on the probability-flow ODE, in sigma; with all of it (eta 1) it has the
distribution of an ancestral step.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from genforge.samplers.ddpm import posterior_deviation
from genforge.samplers.diffusion import DiffusionSampler, DiffusionSettings, Step
from genforge.settings import Settings


class DDIMSettings(DiffusionSettings):
    eta: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="fresh noise: 0 none, the image follows from its first noise alone; "
        "1 as much as ancestral sampling",
    )


class DDIM(DiffusionSampler):
    settings_type: ClassVar[type[Settings]] = DDIMSettings
    settings: DDIMSettings

    def step(self, at: Step) -> Tensor:
        if self.settings.eta == 0.0:
            return at.clean + at.following * at.noise
        fresh = self.settings.eta * posterior_deviation(at.sigma, at.following)
        return at.clean + (at.following**2 - fresh**2).sqrt() * at.noise + fresh * at.fresh()
