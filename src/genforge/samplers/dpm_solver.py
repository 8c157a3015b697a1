"""DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", Algorithm 2): second order, one evaluation a step.

In the time lambda = -log sigma the linear part of the probability-flow ODE is solved exactly, and the predicted clean
image is taken as a straight line through this step and the one before. Scaling the images changes nothing in it, so
that there is no choice of a path. The first step has none before it, and is of first order (DDIM's).
"""

from __future__ import annotations

from torch import Tensor

from genforge.samplers.diffusion import DiffusionSampler, Step


class DPMSolver(DiffusionSampler):
    def step(self, at: Step) -> Tensor:
        clean = at.clean
        if at.before is not None:
            ratio = (at.before.sigma / at.sigma).log() / (at.sigma / at.following).log()  # their r, of steps in lambda
            clean = clean + (clean - at.before.clean) / (2 * ratio)
        share = at.following / at.sigma  # exp(-h)
        return share * at.noisy + (1 - share) * clean
