"""Ancestral sampling (Ho et al. 2020, Algorithm 2, with the posterior's own variance, their section 3.2).

The forward process from sigma' = following to sigma only adds noise, so that given the clean image

    noisy' | noisy, clean ~ N(clean + (sigma'^2 / sigma^2) (noisy - clean), sigma'^2 (sigma^2 - sigma'^2) / sigma^2),

which is eq. 6 and 7 of Ho et al. in other units.
"""

from __future__ import annotations

from torch import Tensor

from genforge.samplers.diffusion import DiffusionSampler, Step


class DDPM(DiffusionSampler):
    def step(self, at: Step) -> Tensor:
        mean, deviation = posterior(at.noisy, at.clean, at.sigma, at.following)
        return mean + deviation * at.fresh()


def posterior(noisy: Tensor, clean: Tensor, sigma: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n, c, h, w) and standard deviation (scalar) of the images at `following`, given those at `sigma` and the
    clean ones. Ho et al. 2020, eq. 6 and 7."""
    return clean + (following / sigma) ** 2 * (noisy - clean), posterior_deviation(sigma, following)


def posterior_deviation(sigma: Tensor, following: Tensor) -> Tensor:
    """sigma' sqrt(1 - (sigma' / sigma)^2) for sigma' = following."""
    return following * (1 - (following / sigma) ** 2).sqrt()
