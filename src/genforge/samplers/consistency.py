"""Multistep consistency sampling (Song et al. 2023, Algorithm 1), for networks that `consistency` has taught.

Such a network gives the end of the whole way at once. So a step goes to the end and back up to the next noise level
with fresh noise; one step is one evaluation and one image.

The algorithm adds sqrt(sigma'^2 - smallest^2) of noise; the smallest level is left out of it here, which is a
thousandth and less of what can be seen.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from genforge.contracts import Taught
from genforge.networks.denoiser import Denoiser
from genforge.samplers.diffusion import DiffusionSampler, Step


class Consistency(DiffusionSampler):
    follows: ClassVar[Taught] = "consistency"

    def step(self, at: Step) -> Tensor:
        return at.clean + at.following * at.fresh()

    def own_grid(self, network: Denoiser, steps: int) -> Tensor:
        """The denoiser's own without its smallest level, from which there is nothing left to do."""
        levels = network.sampling_sigmas(steps + 1)
        return torch.cat([levels[:steps], levels[-1:]])
