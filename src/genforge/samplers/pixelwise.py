"""Pixel by pixel, each drawn from what the network says of it, given those before.

The network walks along and does nothing twice (`walk`), so that an image costs about as much as one pass over it. A
drawn level is where uniform noise falls in a distribution function: a difference in the last bit, such as another batch
size makes, can push it over a step, and then all pixels after it are others. So numbers are kept in double precision,
where that does not happen.
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import Draw, Network, Sampler
from genforge.networks.autoregressive import AutoregressiveNetwork, to_levels, to_values
from genforge.samplers.drawing import begin
from genforge.settings import Settings, UserError


class PixelwiseSettings(Settings):
    temperature: float = Field(
        1.0, gt=0.0, le=10.0, description="below 1 likely values are drawn more often: more typical, less varied"
    )
    precision: Literal["float64", "float32"] = Field(
        "float64",
        description="of the numbers between; with float32, quicker on most GPUs, now and then an image is another at "
        "another batch size",
    )
    together: int = Field(64, ge=1, description="images drawn at once: what is kept of each takes memory")


class Pixelwise(Sampler):
    kinds: ClassVar[tuple[str, ...]] = ("autoregressive",)
    settings_type = PixelwiseSettings
    settings: PixelwiseSettings

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, PixelwiseSettings)
        super().__init__(settings)

    def sample(self, network: Network, draw: Draw) -> Tensor:
        return self.complete(network, draw, None, 0)

    @torch.no_grad()
    def complete(self, network: Network, draw: Draw, pictures: Tensor | None, rows: int) -> Tensor:
        """Images (n, c, h, w) whose first `rows` rows are those of given pictures, and the rest drawn after them.

        Args:
            pictures: float (n, c, h, w) in [-1, 1], one a drawn image; None with no rows.

        Raises:
            UserError: pictures of another shape than the network's, or fewer rows than are to be kept.
        """
        assert isinstance(network, AutoregressiveNetwork)
        begin(network, draw)  # the same rules as for every sampler, before anything is copied
        image = network.port.image
        shape = (len(draw.indices), image.channels, image.height, image.width)
        if not 0 <= rows <= image.height or (rows and (pictures is None or tuple(pictures.shape) != shape)):
            given = None if pictures is None else tuple(pictures.shape)
            raise UserError(f"{rows} rows of pictures {given} cannot be kept; the images drawn are {shape}")
        network = self._precise(network)
        parts, start = [], 0
        for piece in draw.split(self.settings.together):
            size = len(piece.indices)
            kept = None if pictures is None else pictures[start : start + size]
            parts.append(self._walk(network, piece, kept, rows))
            start += size
        return torch.cat(parts) if parts else torch.empty(shape)

    def _walk(self, network: AutoregressiveNetwork, draw: Draw, pictures: Tensor | None, rows: int) -> Tensor:
        indices, labels = begin(network, draw)
        image, count = network.port.image, len(indices)
        noise = randomness.uniform(draw.seed, indices, (image.height * image.width, network.head.uniforms))
        noise = noise.to(torch.float64 if self.settings.precision == "float64" else torch.float32)
        kept = None  # (n, c, h * w)
        if pictures is not None:
            kept = to_values(to_levels(pictures, network.bits), network.bits).flatten(2).to(noise)
        drawn: list[Tensor] = []
        walk = network.walk(count, labels)
        features = next(walk)
        for position in range(noise.shape[1]):
            if kept is not None and position < rows * image.width:
                values = kept[:, :, position]
            else:
                levels = network.head.draw(features, noise[:, position], self.settings.temperature)
                values = to_values(levels, network.bits).to(noise.dtype)
            drawn.append(values)
            if position + 1 < noise.shape[1]:
                features = walk.send(values)
        walk.close()
        images = torch.stack(drawn, dim=2)  # (n, c, h * w)
        return images.unflatten(2, (image.height, image.width)).float()

    def _precise(self, network: AutoregressiveNetwork) -> AutoregressiveNetwork:
        if self.settings.precision == "float32":
            return network
        return copy.deepcopy(network).double()
