"""The likelihood of a normalizing flow: exact for continuous images, and for 8-bit ones the mean over their cells.

The probability of an 8-bit image is the integral of the density over the image's cell, which is the cell's volume times
the mean density at uniform noise in it (Theis et al. 2016, "A note on the evaluation of generative models", section
3.1). With one draw of noise the logarithm is on the average a little below the probability's own. Points are continuous
already.
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
from genforge.networks.flow import Flow
from genforge.settings import Settings, UserError


class FlowDensitySettings(Settings):
    draws: int = Field(
        1,
        ge=1,
        le=1000,
        description="of dequantisation noise an image: the probability is the mean over them. More are nearer to the "
        "probability of the 8-bit image, from below on the average",
    )


class FlowDensity(Density):
    kinds: ClassVar[tuple[str, ...]] = ("latent_to_image",)
    settings_type = FlowDensitySettings
    exact = True

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, FlowDensitySettings)
        super().__init__(settings)
        self.draws = settings.draws
        self.how = f"exact; uniform dequantisation, {'1 draw' if self.draws == 1 else f'{self.draws} draws'}"

    def how_of(self, image: ImageShape) -> str:
        return "exact" if image.is_point else self.how

    def check(self, network: Network) -> None:
        if not isinstance(network, Flow):
            raise UserError(
                f"density.name: 'flow' tells likelihoods of networks that can be inverted (realnvp, realnvp-mlp), not "
                f"of a {type(network).__name__}; leave `density` out, or choose another"
            )

    @torch.no_grad()
    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        (network,) = networks.values()
        assert isinstance(network, Flow)
        labels = None if draw.labels is None else draw.labels.to(images.device)
        if network.port.image.is_point:
            return network.log_density(images, labels).double()
        indices, shape = draw.indices.to(images.device), tuple(images.shape[1:])
        told = []
        for number in range(self.draws):
            unit = randomness.uniform(draw.seed, indices, shape, stream=number)
            told.append(network.log_density(images + CELL * (unit - 0.5), labels).double())
        return torch.stack(told).logsumexp(dim=0) - math.log(self.draws) + math.prod(shape) * math.log(CELL)
