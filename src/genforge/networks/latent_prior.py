"""A decoder with a distribution over its codes in front of it, so that it draws from plain noise.

A plain autoencoder's codes lie wherever training left them. What fits a distribution to images fits one to codes: the
prior is one of the baselines (`gaussian`, `mixture`, ...), over codes in the place of pixels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import ImageShape, Network, Port, PortKind
from genforge.networks.baselines import Baseline, latent_size
from genforge.settings import Settings, UserError


class LatentPriorSettings(Settings):
    prior: dict[str, Any] = Field(
        default_factory=lambda: {"name": "gaussian"}, description="the baseline that is fitted to codes"
    )
    decoder: dict[str, Any] = Field(
        default_factory=lambda: {"name": "dcgan-generator"}, description="the network that makes an image of a code"
    )


class LatentPrior(Network):
    """Noise (n, code size + 1) to codes (n, code size) by the prior, to images by the decoder."""

    kind: ClassVar[PortKind] = "latent_to_image"
    settings_type = LatentPriorSettings
    inner: ClassVar[tuple[str, ...]] = ("prior", "decoder")

    @classmethod
    def inner_port(cls, key: str, settings: Settings, port: Port) -> Port:
        size = port.latent_size - 1  # a baseline takes one more number, which picks a mixture's component
        if key == "prior":
            codes = ImageShape(1, 1, size)
            return Port("latent_to_image", codes, latent_size=latent_size(codes))
        return Port("latent_to_image", port.image, latent_size=size, classes=port.classes)

    def __init__(self, settings: LatentPriorSettings, port: Port, prior: Network, decoder: Network) -> None:
        super().__init__(settings, port)
        if not isinstance(prior, Baseline):
            raise UserError(
                f"prior.name: {settings.prior['name']!r} does not fit itself to codes; choose gaussian, mixture, box "
                f"or kernel-density"
            )
        self.prior, self.decoder = prior, decoder

    def codes(self, noise: Tensor) -> Tensor:
        """Codes (n, code size) of standard normal noise (n, code size + 1)."""
        return self.prior(noise).flatten(1)

    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of codes (n, code size)."""
        return self.decoder(codes, labels)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.no_grad():  # the prior is fitted, and not learned by gradients
            codes = self.codes(latent)
        return self.decode(codes, labels)
