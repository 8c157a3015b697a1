"""DCGAN's convolutional pair at any size from 8 to 64 that 4 divides.

Radford et al. 2016, "Unsupervised representation learning with deep convolutional generative adversarial networks"
(style `dcgan`); Miyato et al. 2018, "Spectral normalization for generative adversarial networks", Table 3 (style
`sngan`: 3x3 convolutions between the strided ones).

Both halve (or double) the sides as long as they are even and greater than 4, so that nothing is padded or cropped:
28 is 14 is 7, and 64 is the classic 32, 16, 8, 4. Channels double with every halving. With style `dcgan` and width
128 the generator at 64x64 is the classic 1024-512-256-128.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genforge.contracts import Network, Port, PortKind
from genforge.networks.layers import LabelEmbedding, Normalisation, halvings, normalisation, spectral_norm
from genforge.settings import Settings

Style = Literal["dcgan", "sngan"]
SLOPE = 0.2  # of the critic's leaky rectifier below zero (Radford et al. 2016, section 3)


class GeneratorSettings(Settings):
    width: int = Field(
        64, ge=4, le=512, description="channels at the largest inner size; they double at each smaller one"
    )
    normalisation: Normalisation = Field("batch", description="after every layer but the last")
    style: Style = Field(
        "dcgan",
        description="dcgan: transposed convolutions alone. sngan: a 3x3 convolution at full size makes the image",
    )


class Generator(Network):
    """Latent (n, latent_size) to images (n, c, h, w) in [-1, 1]. Labels are embedded and joined to the latent."""

    kind: ClassVar[PortKind] = "latent_to_image"
    settings_type = GeneratorSettings

    def __init__(self, settings: GeneratorSettings, port: Port) -> None:
        super().__init__(settings, port)
        image, doublings = port.image, halvings(port.image)
        self.label = LabelEmbedding(port.classes, port.latent_size) if port.classes else None
        # The classic last layer doubles the size and makes the image at once; sngan keeps the two apart.
        widest = doublings if settings.style == "sngan" else doublings - 1
        channels = settings.width * 2**widest
        self.base = (channels, image.height >> doublings, image.width >> doublings)
        inputs = port.latent_size * (2 if self.label else 1)
        self.project = nn.Linear(inputs, channels * self.base[1] * self.base[2])
        layers: list[nn.Module] = [normalisation(settings.normalisation, channels), nn.ReLU()]
        for _ in range(widest):
            layers += [
                nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1),
                normalisation(settings.normalisation, channels // 2),
                nn.ReLU(),
            ]
            channels //= 2
        if settings.style == "sngan":
            layers.append(nn.Conv2d(channels, image.channels, 3, padding=1))
        else:
            layers.append(nn.ConvTranspose2d(channels, image.channels, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.label is not None:
            latent = torch.cat([latent, self.label(labels)], dim=1)
        return self.layers(self.project(latent).unflatten(1, self.base))


class CriticSettings(Settings):
    width: int = Field(64, ge=4, le=512, description="channels at the largest size; they double at each smaller one")
    normalisation: Normalisation = Field("none", description="after every convolution but the first")
    spectral_norm: bool = Field(False, description="keep every layer's largest singular value at one")
    style: Style = Field(
        "dcgan",
        description="dcgan: strided convolutions alone. sngan: a 3x3 convolution before each and after the last",
    )


class Critic(Network):
    """Images (n, c, h, w) to a vector (n, outputs): one number for a critic, twice the latent size for an encoder.

    Labels are embedded as one more channel (Mirza & Osindero 2014, "Conditional generative adversarial nets").
    """

    kind: ClassVar[PortKind] = "image_to_vector"
    settings_type = CriticSettings

    def __init__(self, settings: CriticSettings, port: Port) -> None:
        super().__init__(settings, port)
        image, count = port.image, halvings(port.image)
        self.label = LabelEmbedding(port.classes, image.height * image.width) if port.classes else None
        layers: list[nn.Module] = []

        def convolution(inputs: int, outputs: int, size: int, stride: int) -> None:
            layers.append(spectral_norm(nn.Conv2d(inputs, outputs, size, stride, padding=1), settings.spectral_norm))
            if len(layers) > 1:
                layers.append(normalisation(settings.normalisation, outputs))
            layers.append(nn.LeakyReLU(SLOPE))

        inputs = image.channels + (1 if self.label else 0)
        for level in range(count):
            outputs = settings.width * 2**level
            if settings.style == "sngan":
                convolution(inputs, outputs, size=3, stride=1)
                inputs = outputs
            convolution(inputs, outputs, size=4, stride=2)
            inputs = outputs
        if settings.style == "sngan":
            convolution(inputs, 2 * inputs, size=3, stride=1)
            inputs *= 2
        values = inputs * (image.height >> count) * (image.width >> count)
        head = spectral_norm(nn.Linear(values, port.outputs), settings.spectral_norm)
        self.layers = nn.Sequential(*layers, nn.Flatten(), head)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.label is not None:
            plane = self.label(labels).view(len(images), 1, *images.shape[2:])
            images = torch.cat([images, plane], dim=1)
        return self.layers(images)
