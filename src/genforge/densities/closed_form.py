"""Likelihoods of the baselines: each is a distribution with a density that can be written down.

A level of an 8-bit image stands for the cell of values that are rounded to it, 2/255 wide in [-1, 1]. Images are
dequantised by uniform noise over their cells (Theis et al. 2016, "A note on the evaluation of generative models",
section 3.1), and the baseline is taken as fitted to images dequantised in the same way: a box is widened by half a cell
on each side, which makes it uniform over whole levels, and Gaussians get the variance of that noise. Without it a pixel
that never varied in training would have an infinite density.

A baseline calls impossible, or as good as that, what it has not seen: one pixel outside of the box is enough. So
likelihoods are told of the baseline with a little noise mixed in, uniform over all 8-bit images: it costs a possible
image next to nothing, and bounds what an impossible one costs (at 8 bits per dimension, and -log2 of the share for the
whole image).

Points of the plane are real numbers already: their density is told as it is, with as little noise, uniform over the
square from -1 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import CELL, Density, Draw, ImageShape, Network
from genforge.networks.baselines import Baseline
from genforge.settings import Settings, UserError

LEVELS = 256


class ClosedFormDensitySettings(Settings):
    draws: int = Field(
        1,
        ge=1,
        le=1000,
        description="of dequantisation noise an image: the probability is the mean over them. More are nearer to the "
        "probability of the 8-bit image, from below on the average",
    )
    noise: float = Field(
        0.001,
        gt=0.0,
        lt=1.0,
        description="share of images that are taken to be uniform over all 8-bit images; of points, over the square",
    )


class ClosedFormDensity(Density):
    kinds: ClassVar[tuple[str, ...]] = ("latent_to_image",)
    settings_type = ClosedFormDensitySettings
    exact = True

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, ClosedFormDensitySettings)
        super().__init__(settings)
        self.draws, self.noise = settings.draws, settings.noise
        draws = "1 draw" if self.draws == 1 else f"{self.draws} draws"
        self.how = f"exact; uniform dequantisation, {draws}; {self.noise:g} of uniform noise mixed in"

    def how_of(self, image: ImageShape) -> str:
        return f"exact; {self.noise:g} of uniform noise mixed in" if image.is_point else self.how

    def check(self, network: Network) -> None:
        if not isinstance(network, Baseline):
            raise UserError(
                f"density.name: 'closed-form' tells likelihoods of baselines (box, gaussian, mixture, kernel-density), "
                f"not of a {type(network).__name__}; leave `density` out, or choose another"
            )

    @torch.no_grad()
    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        (network,) = networks.values()
        assert isinstance(network, Baseline)
        flat = images.flatten(1).double()  # (n, d)
        if network.port.image.is_point:
            return self._with_noise(network.log_density(flat), 2 * math.log(2))
        indices, size = draw.indices.to(flat.device), flat.shape[1]
        told = []
        for number in range(self.draws):
            unit = randomness.uniform(draw.seed, indices, (size,), stream=number)
            told.append(network.log_density(flat + CELL * (unit.double() - 0.5), cell=CELL))
        mean = torch.stack(told).logsumexp(0) - math.log(self.draws) + size * math.log(CELL)
        return self._with_noise(mean, size * math.log(LEVELS))

    def _with_noise(self, told: Tensor, volume: float) -> Tensor:
        """volume: of all there is, as a logarithm."""
        uniform = told.new_tensor(math.log(self.noise) - volume)
        return torch.logaddexp(told + math.log1p(-self.noise), uniform)
