"""Images of a style-based generator: each has its own noise in every layer, and its style may be drawn to the mean.

Truncation (Karras et al. 2019, appendix B): w' = E[w] + psi (w - E[w]), where E[w] is the mean style of training. What
is drawn nearer to the mean is more typical and less varied.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import Draw, Network, Sampler, WithStyles
from genforge.samplers.drawing import begin
from genforge.settings import Settings, UserError


class StyleSettings(Settings):
    truncation: float = Field(
        1.0, gt=0.0, le=1.0, description="psi: share of the way from the mean style to an image's own; 1: all of it"
    )
    noise: Literal["random", "constant"] = Field(
        "random", description="of the layers: each image's own, or the same for all images"
    )


class Style(Sampler):
    kinds: ClassVar[tuple[str, ...]] = ("latent_to_image",)
    settings_type = StyleSettings
    one_pass: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, StyleSettings)
        super().__init__(settings)
        self.truncation, self.noise = settings.truncation, settings.noise

    def check(self, network: Network) -> None:
        if not isinstance(network, WithStyles):
            raise UserError(
                f"sampler.name: 'style' draws from networks that have styles, and {type(network).__module__} has none; "
                f"set it to one-shot, or networks.generator.name to style-generator"
            )

    def latents(self, network: Network, draw: Draw) -> Tensor:
        """What images begin as: standard normal (n, latent_size)."""
        indices, _ = begin(network, draw)
        return randomness.normal(draw.seed, indices, (network.port.latent_size,))

    def sample(self, network: Network, draw: Draw) -> Tensor:
        return self.from_latents(network, self.latents(network, draw), draw)

    @torch.no_grad()
    def from_latents(self, network: Network, latents: Tensor, draw: Draw) -> Tensor:
        """Images of given latents, with the labels and the layers' noise of `draw`."""
        assert isinstance(network, WithStyles)
        indices, labels = begin(network, draw)
        styles = torch.lerp(network.style_mean, network.styled(latents, labels), self.truncation)
        noise = None
        if self.noise == "random":
            shapes = enumerate(network.noise_shapes, start=1)  # stream 0 is the latent's
            noise = [randomness.normal(draw.seed, indices, shape, stream) for stream, shape in shapes]
        return network.synthesise(styles[:, None].expand(-1, network.styles, -1), noise).float()
