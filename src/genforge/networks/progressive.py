"""The pair of Karras et al. 2018, "Progressive growing of GANs", Table 2.

Both are built at full size and know a `stage`: 0 is the smallest size of `layers.halvings`, each whole number twice the
sides of the one before, and between two of them the larger fades in (section 2, Figure 2). Images are of full size at
every stage: the generator's are enlarged, the critic looks at smaller ones, so that nobody else need know the size at
which they work, and the time that small sizes save is saved. The stage lies with the weights.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import Network, Port, PortKind
from genforge.networks.conditioning import (
    Projection,
    join,
    join_planes,
    joined_label,
    label_size,
    planes,
)
from genforge.networks.equalised import EqualisedConv, EqualisedLinear, MinibatchDeviation, rectified, unit_length
from genforge.networks.layers import halvings
from genforge.networks.style import CriticSettings, Widest, Width, channels_of
from genforge.settings import Settings


class Growing(Network):
    """A network that grows. A new one is fully grown."""

    stage: Tensor

    def __init__(self, settings: Settings, port: Port) -> None:
        super().__init__(settings, port)
        self.stages = halvings(port.image)
        self.register_buffer("stage", torch.tensor(float(self.stages)))

    def grow(self, stage: float) -> None:
        """Be at this stage, 0 to `stages`."""
        self.stage.fill_(stage)

    def standing(self) -> tuple[int, float]:
        """The present size's number, from 0, and its share (above 0, at most 1) while it fades in."""
        stage = float(self.stage)
        level = math.ceil(stage)
        return level, 1.0 if level == stage else stage - (level - 1)

    def reduced(self, images: Tensor) -> Tensor:
        """Real images as they look at this stage, in full size: while a size fades in, they are between both sizes, as
        generated ones are."""
        level, share = self.standing()
        times = 2 ** (self.stages - level)
        images = functional.avg_pool2d(images, times)
        if share < 1:
            images = torch.lerp(enlarged(functional.avg_pool2d(images, 2), 2), images, share)
        return enlarged(images, times)


class GeneratorSettings(Settings):
    width: int = Width
    widest: int = Widest
    conditioning: Literal["embedding", "concatenation"] = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )


class Generator(Growing):
    """Latent (n, latent_size) to images (n, c, h, w), nominally in [-1, 1]."""

    kind: ClassVar[PortKind] = "latent_to_image"
    settings_type = GeneratorSettings
    channels_first_on_cpu: ClassVar[bool] = True  # it begins with small sizes, where it loses; later it does not gain

    def __init__(self, settings: GeneratorSettings, port: Port) -> None:
        super().__init__(settings, port)
        image = port.image
        widths = channels_of(settings.width, settings.widest, self.stages)
        self.label = joined_label(settings.conditioning, port.classes, port.latent_size)
        self.base = (widths[0], image.height >> self.stages, image.width >> self.stages)
        self.project = EqualisedLinear(port.latent_size + label_size(self.label), math.prod(self.base))
        self.first = EqualisedConv(widths[0], widths[0], 3)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualisedConv(before, after, 3), EqualisedConv(after, after, 3)])
            for before, after in pairwise(widths)
        )
        self.images = nn.ModuleList(EqualisedConv(width, image.channels, 1) for width in widths)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        level, share = self.standing()
        values = self.project(unit_length(join(latent, self.label, labels))).unflatten(1, self.base)
        values = _normalised(self.first(_normalised(values)))
        before = values
        for block in self.blocks[:level]:
            before, values = values, enlarged(values, 2)
            assert isinstance(block, nn.ModuleList)
            for convolution in block:
                values = _normalised(convolution(values))
        image = self.images[level](values)
        if share < 1:
            image = torch.lerp(enlarged(self.images[level - 1](before), 2), image, share)
        return enlarged(image, 2 ** (self.stages - level))


class Critic(Growing):
    """Images (n, c, h, w) to a vector (n, outputs): one number for a critic, twice the latent size for an encoder."""

    kind: ClassVar[PortKind] = "image_to_vector"
    settings_type = CriticSettings

    def __init__(self, settings: CriticSettings, port: Port) -> None:
        super().__init__(settings, port)
        image = port.image
        widths = channels_of(settings.width, settings.widest, self.stages)
        self.label = joined_label(settings.conditioning, port.classes, image.height * image.width)
        inputs = image.channels + planes(self.label)
        self.images = nn.ModuleList(EqualisedConv(inputs, width, 1) for width in widths)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualisedConv(after, after, 3), EqualisedConv(after, before, 3)])
            for before, after in pairwise(widths)
        )
        last, places = widths[0], (image.height >> self.stages) * (image.width >> self.stages)
        self.deviation: nn.Module = MinibatchDeviation() if settings.minibatch_deviation else nn.Identity()
        self.last = EqualisedConv(last + int(settings.minibatch_deviation), last, 3)
        self.hidden = EqualisedLinear(last * places, last)
        self.head = EqualisedLinear(last, port.outputs)
        wanted = port.classes and settings.conditioning == "projection"
        self.projection = Projection(port.classes, last, port.outputs, spectral=False) if wanted else None
        self.projection_scale = 1 / math.sqrt(last)

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the head sees of the images: (n, values)."""
        level, share = self.standing()
        images = functional.avg_pool2d(join_planes(images, self.label, labels), 2 ** (self.stages - level))
        values = rectified(self.images[level](images))
        for number in range(level - 1, -1, -1):
            block = self.blocks[number]
            assert isinstance(block, nn.ModuleList)
            for convolution in block:
                values = rectified(convolution(values))
            values = functional.avg_pool2d(values, 2)
            if number == level - 1 and share < 1:
                before = rectified(self.images[number](functional.avg_pool2d(images, 2)))
                values = torch.lerp(before, values, share)
        values = rectified(self.last(self.deviation(values)))
        return rectified(self.hidden(values.flatten(1)))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images, labels)
        outputs = self.head(features)
        if self.projection is None:
            return outputs
        return outputs + self.projection_scale * self.projection(features, labels)


def _normalised(values: Tensor) -> Tensor:
    return unit_length(functional.leaky_relu(values, 0.2))


def enlarged(images: Tensor, times: int) -> Tensor:
    """Every pixel as a square of `times` by `times` pixels."""
    return images if times == 1 else functional.interpolate(images, scale_factor=float(times), mode="nearest")
