"""The pair of the first GANs: nothing but linear layers, on the image as one long vector.

After Goodfellow et al. 2014, "Generative adversarial networks". With the default widths, latents of 100 and images of
28x28, the generator is 100-256-512-1024-784 and the critic 784-1024-512-256-1. Leaky rectifiers stand in place of the
paper's rectifiers and maxout.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from genforge.contracts import Network, Port, PortKind
from genforge.networks.conditioning import Projection, join, joined_label, label_size
from genforge.networks.layers import Dropout, spectral_norm
from genforge.settings import Settings

SLOPE = 0.2  # of the leaky rectifier below zero
Width = Annotated[int, Field(ge=4, le=4096)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]


class GeneratorSettings(Settings):
    widths: Widths = Field((256, 512, 1024), description="values after each hidden layer, from the latent on")
    normalisation: Literal["batch", "none"] = Field("none", description="after every hidden layer")
    conditioning: Literal["embedding", "concatenation"] = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )


class Generator(Network):
    """Latent (n, latent_size) to images (n, c, h, w) in [-1, 1]."""

    kind: ClassVar[PortKind] = "latent_to_image"
    settings_type = GeneratorSettings
    takes_points = True

    def __init__(self, settings: GeneratorSettings, port: Port) -> None:
        super().__init__(settings, port)
        self.label = joined_label(settings.conditioning, port.classes, port.latent_size)
        inputs = port.latent_size + label_size(self.label)
        layers: list[nn.Module] = []
        for width in settings.widths:
            layers.append(nn.Linear(inputs, width))
            if settings.normalisation == "batch":
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.LeakyReLU(SLOPE))
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, port.image.size), nn.Tanh())

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        image = self.port.image
        values = self.layers(join(latent, self.label, labels))
        return values.unflatten(1, (image.channels, image.height, image.width))


class CriticSettings(Settings):
    widths: Widths = Field((1024, 512, 256), description="values after each hidden layer, from the image on")
    dropout: float = Field(0.0, ge=0.0, le=0.9, description="share of values set to zero after every hidden layer")
    spectral_norm: bool = Field(False, description="keep every layer's largest singular value at one")
    conditioning: Literal["embedding", "concatenation", "projection"] = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )


class Critic(Network):
    """Images (n, c, h, w) to a vector (n, outputs): one number for a critic, twice the latent size for an encoder."""

    kind: ClassVar[PortKind] = "image_to_vector"
    settings_type = CriticSettings
    takes_points = True

    def __init__(self, settings: CriticSettings, port: Port) -> None:
        super().__init__(settings, port)
        spectral = settings.spectral_norm
        self.label = joined_label(settings.conditioning, port.classes, port.image.height * port.image.width)
        inputs = port.image.size + label_size(self.label)
        layers: list[nn.Module] = []
        for width in settings.widths:
            layers += [spectral_norm(nn.Linear(inputs, width), spectral), nn.LeakyReLU(SLOPE)]
            if settings.dropout:
                layers.append(Dropout(settings.dropout))
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = spectral_norm(nn.Linear(inputs, port.outputs), spectral)
        wanted = port.classes and settings.conditioning == "projection"
        self.projection = Projection(port.classes, inputs, port.outputs, spectral) if wanted else None

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the head sees of the images: (n, last width)."""
        return self.layers(join(images.flatten(1), self.label, labels))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images, labels)
        outputs = self.head(features)
        return outputs if self.projection is None else outputs + self.projection(features, labels)
