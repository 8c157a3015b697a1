"""The importance-weighted bound on a variational autoencoder's likelihood.

Burda et al. 2016, "Importance weighted autoencoders", eq. 8: with K latents from the posterior q(z | x), the logarithm
of the mean of p(x, z) / q(z | x) is on the average below log p(x), never further with more latents, and comes to it as
K grows. K = 1 is the evidence lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import Density, Draw, Network
from genforge.networks.pixels import Pixels
from genforge.settings import Settings

BINARISING = 1_000_000  # the stream of the law's own noise, beyond those of the latents


class ImportanceWeightedSettings(Settings):
    samples: int = Field(
        64, ge=1, le=100_000, description="latents an image (K): more bring the bound closer, and cost as much more"
    )


class ImportanceWeighted(Density):
    kinds: ClassVar[tuple[str, ...]] = ("latent_to_image",)
    settings_type = ImportanceWeightedSettings
    companions: ClassVar[tuple[str, ...]] = ("encoder", "pixels")
    exact = False

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, ImportanceWeightedSettings)
        super().__init__(settings)
        self.samples = settings.samples
        self.how = (
            "evidence lower bound, 1 sample"
            if self.samples == 1
            else f"importance-weighted bound, {self.samples} samples"
        )

    def of(self, networks: Mapping[str, Network]) -> str:
        return _law(networks).of

    @torch.no_grad()
    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        encoder, decoder, law = networks["encoder"], networks["decoder"], _law(networks)
        indices = draw.indices.to(images.device)
        labels = None if draw.labels is None else draw.labels.to(images.device)
        seen = law.observe(images, randomness.uniform(draw.seed, indices, tuple(images.shape[1:]), stream=BINARISING))
        mean, log_variance = encoder(seen, labels).double().chunk(2, dim=1)
        weights = []
        for number in range(self.samples):
            noise = randomness.normal(draw.seed, indices, tuple(mean.shape[1:]), stream=number).double()
            latent = mean + (0.5 * log_variance).exp() * noise
            # log p(z) - log q(z | x): the constants of the two normals cancel.
            prior_over_posterior = 0.5 * (noise.square() + log_variance - latent.square()).sum(dim=1)
            decoded = decoder(latent.float(), labels)
            weights.append(law.log_probability(decoded, seen).double() + prior_over_posterior)
        return torch.stack(weights).logsumexp(dim=0) - math.log(self.samples)


def _law(networks: Mapping[str, Network]) -> Pixels:
    law = networks["pixels"]
    assert isinstance(law, Pixels)
    return law
