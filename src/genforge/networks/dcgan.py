"""DCGAN's convolutional pair at any size from 8 to 64 that 4 divides.

Radford et al. 2016, "Unsupervised representation learning with deep convolutional generative adversarial networks"
(style `dcgan`); Miyato et al. 2018, "Spectral normalization for generative adversarial networks", Table 3 (style
`sngan`: 3x3 convolutions between the strided ones).

Both halve (or double) the sides as long as they are even and greater than 4, so that nothing is padded or cropped:
28 is 14 is 7, and 64 is the classic 32, 16, 8, 4. Channels double with every halving. With style `dcgan` and width
128 the generator at 64x64 is the classic 1024-512-256-128.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from genforge.contracts import Network, Port, PortKind
from genforge.networks.conditioning import (
    CriticConditioning,
    GeneratorConditioning,
    Projection,
    check_generator,
    generator_normalisation,
    join,
    join_planes,
    joined_label,
    label_size,
    planes,
    run,
)
from genforge.networks.halving import Double, Halve
from genforge.networks.layers import Flatten, Normalisation, draw_weights, halvings, normalisation, spectral_norm
from genforge.settings import Settings

Style = Literal["dcgan", "sngan"]
InitialDeviation = Annotated[float, Field(gt=0.0, le=1.0)] | None
FIRST_WEIGHTS = Field(
    None, description="standard deviation of the first weights (Radford et al. 2016: 0.02); null: torch's own choice"
)
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
    initial_deviation: InitialDeviation = FIRST_WEIGHTS
    conditioning: GeneratorConditioning = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )

    @field_validator("conditioning")
    @classmethod
    def _conditioning(cls, conditioning: GeneratorConditioning, info: ValidationInfo) -> str:
        return check_generator(conditioning, info.data.get("normalisation"))


class Generator(Network):
    """Latent (n, latent_size) to images (n, c, h, w) in [-1, 1]."""

    kind: ClassVar[PortKind] = "latent_to_image"
    settings_type = GeneratorSettings

    def __init__(self, settings: GeneratorSettings, port: Port) -> None:
        super().__init__(settings, port)
        image, doublings = port.image, halvings(port.image)
        self.label = joined_label(settings.conditioning, port.classes, port.latent_size)

        def normalised(channels: int) -> nn.Module:
            return generator_normalisation(settings.normalisation, channels, settings.conditioning, port.classes)

        # The classic last layer doubles the size and makes the image at once; sngan keeps the two apart.
        widest = doublings if settings.style == "sngan" else doublings - 1
        channels = settings.width * 2**widest
        self.base = (channels, image.height >> doublings, image.width >> doublings)
        self.project = nn.Linear(port.latent_size + label_size(self.label), channels * self.base[1] * self.base[2])
        layers: list[nn.Module] = [normalised(channels), nn.ReLU()]
        for _ in range(widest):
            layers += [
                Double(channels, channels // 2),
                normalised(channels // 2),
                nn.ReLU(),
            ]
            channels //= 2
        if settings.style == "sngan":
            layers.append(nn.Conv2d(channels, image.channels, 3, padding=1))
        else:
            layers.append(Double(channels, image.channels))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        draw_weights(self, settings.initial_deviation)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        start = self.project(join(latent, self.label, labels)).unflatten(1, self.base)
        return run(self.layers, start, labels)


class CriticSettings(Settings):
    width: int = Field(64, ge=4, le=512, description="channels at the largest size; they double at each smaller one")
    normalisation: Normalisation = Field("none", description="after every convolution but the first")
    spectral_norm: bool = Field(False, description="keep every layer's largest singular value at one")
    style: Style = Field(
        "dcgan",
        description="dcgan: strided convolutions alone. sngan: a 3x3 convolution before each and after the last",
    )
    initial_deviation: InitialDeviation = FIRST_WEIGHTS
    conditioning: CriticConditioning = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )


class Critic(Network):
    """Images (n, c, h, w) to a vector (n, outputs): one number for a critic, twice the latent size for an encoder."""

    kind: ClassVar[PortKind] = "image_to_vector"
    settings_type = CriticSettings

    def __init__(self, settings: CriticSettings, port: Port) -> None:
        super().__init__(settings, port)
        image, count = port.image, halvings(port.image)
        self.label = joined_label(settings.conditioning, port.classes, image.height * image.width)
        layers: list[nn.Module] = []

        def add(layer: nn.Conv2d) -> None:
            layers.append(spectral_norm(layer, settings.spectral_norm))
            if len(layers) > 1:
                layers.append(normalisation(settings.normalisation, layer.out_channels))
            layers.append(nn.LeakyReLU(SLOPE))

        inputs = image.channels + planes(self.label)
        for level in range(count):
            outputs = settings.width * 2**level
            if settings.style == "sngan":
                add(nn.Conv2d(inputs, outputs, 3, padding=1))
                inputs = outputs
            add(Halve(inputs, outputs))
            inputs = outputs
        if settings.style == "sngan":
            add(nn.Conv2d(inputs, 2 * inputs, 3, padding=1))
            inputs *= 2
        values = inputs * (image.height >> count) * (image.width >> count)
        head = spectral_norm(nn.Linear(values, port.outputs), settings.spectral_norm)
        self.layers = nn.Sequential(*layers, Flatten(), head)
        wanted = port.classes and settings.conditioning == "projection"
        self.projection = Projection(port.classes, values, port.outputs, settings.spectral_norm) if wanted else None
        draw_weights(self, settings.initial_deviation)

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the head sees of the images: (n, values)."""
        values = join_planes(images, self.label, labels)
        *body, _ = self.layers
        for layer in body:
            values = layer(values)
        return values

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images, labels)
        outputs = self.layers[-1](features)
        return outputs if self.projection is None else outputs + self.projection(features, labels)
