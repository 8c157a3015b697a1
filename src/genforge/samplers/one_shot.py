"""One pass: latent noise through the network is the image. GANs, VAEs and baselines are drawn from like this."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import Draw, Network, Sampler
from genforge.samplers.drawing import begin
from genforge.settings import Settings


class OneShotSettings(Settings):
    truncation: float | None = Field(
        None,
        gt=0.0,
        description="draw latents from the normal cut off at this distance from zero (Brock et al. 2019, "
        "section 3.1): smaller is less varied and more typical; null: not cut off",
    )


class OneShot(Sampler):
    kinds: ClassVar[tuple[str, ...]] = ("latent_to_image",)
    settings_type = OneShotSettings
    one_pass: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, OneShotSettings)
        super().__init__(settings)
        self.truncation = settings.truncation

    def latents(self, network: Network, draw: Draw) -> Tensor:
        """What images begin as: normal noise (n, latent_size), cut off where that is asked for."""
        indices, _ = begin(network, draw)
        latent = randomness.normal(draw.seed, indices, (network.port.latent_size,))
        return latent if self.truncation is None else truncated(latent, self.truncation)

    def sample(self, network: Network, draw: Draw) -> Tensor:
        return self.from_latents(network, self.latents(network, draw), draw)

    @torch.no_grad()
    def from_latents(self, network: Network, latents: Tensor, draw: Draw) -> Tensor:
        """Images of given latents, with the labels of `draw`."""
        _, labels = begin(network, draw)
        return network(latents, labels).float()


def truncated(noise: Tensor, limit: float) -> Tensor:
    """Standard normal noise to noise of the normal cut off at +-limit, value by value and in the same order."""
    low = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64))
    share = torch.special.ndtr(noise.double())
    return torch.special.ndtri(low + share * (1 - 2 * low)).to(noise.dtype)
