"""The residual pair of Miyato et al. 2018, "Spectral normalization for generative adversarial networks", Table 4.

Made for CIFAR: at 32x32 with the default widths it is that table's. The generator doubles the sides from the smallest
that `layers.halvings` gives; the critic halves them as long as they are even and greater than 8 (at least once), then
keeps them for two more blocks. The number of channels is the same everywhere. With conditioning `batch-norm` in the
generator and `projection` in the critic it is the pair of Miyato & Koyama 2018, "cGANs with projection discriminator".
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import ImageShape, Network, Port, PortKind
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
from genforge.networks.layers import Normalisation, halvings, spectral_norm
from genforge.settings import Settings

FLAT_BLOCKS = 2  # of the critic, at its smallest size


class GeneratorSettings(Settings):
    width: int = Field(256, ge=4, le=1024, description="channels of every block")
    normalisation: Normalisation = Field("batch", description="before every rectifier")
    conditioning: GeneratorConditioning = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )

    @field_validator("conditioning")
    @classmethod
    def _conditioning(cls, conditioning: GeneratorConditioning, info: ValidationInfo) -> str:
        return check_generator(conditioning, info.data.get("normalisation"))


class UpBlock(nn.Module):
    """Doubles the sides: (n, width, h, w) to (n, width, 2h, 2w)."""

    def __init__(self, settings: GeneratorSettings, classes: int) -> None:
        super().__init__()
        width = settings.width
        first, second = (
            generator_normalisation(settings.normalisation, width, settings.conditioning, classes) for _ in range(2)
        )
        self.before = nn.Sequential(first, nn.ReLU())
        self.after = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), second, nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, values: Tensor, labels: Tensor | None) -> Tensor:
        branch = run(self.after, _doubled(run(self.before, values, labels)), labels)
        return branch + _doubled(self.shortcut(values))  # a 1x1 convolution is the same before doubling, and cheaper


def _doubled(values: Tensor) -> Tensor:
    return functional.interpolate(values, scale_factor=2.0, mode="nearest")


class Generator(Network):
    """Latent (n, latent_size) to images (n, c, h, w) in [-1, 1]."""

    kind: ClassVar[PortKind] = "latent_to_image"
    settings_type = GeneratorSettings

    def __init__(self, settings: GeneratorSettings, port: Port) -> None:
        super().__init__(settings, port)
        image, width, doublings = port.image, settings.width, halvings(port.image)
        self.label = joined_label(settings.conditioning, port.classes, port.latent_size)
        self.base = (width, image.height >> doublings, image.width >> doublings)
        self.project = nn.Linear(port.latent_size + label_size(self.label), width * self.base[1] * self.base[2])
        self.blocks = nn.ModuleList(UpBlock(settings, port.classes) for _ in range(doublings))
        last = generator_normalisation(settings.normalisation, width, settings.conditioning, port.classes)
        self.image = nn.Sequential(last, nn.ReLU(), nn.Conv2d(width, image.channels, 3, padding=1), nn.Tanh())

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        values = self.project(join(latent, self.label, labels)).unflatten(1, self.base)
        for block in self.blocks:
            values = block(values, labels)
        return run(self.image, values, labels)


class CriticSettings(Settings):
    width: int = Field(128, ge=4, le=1024, description="channels of every block, and features")
    spectral_norm: bool = Field(True, description="keep every layer's largest singular value at one")
    conditioning: CriticConditioning = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )


class Block(nn.Module):
    """(n, inputs, h, w) to (n, width, h, w), or to half the sides. The first block of all has no rectifier before it,
    since there it would throw away the darker half of the image."""

    def __init__(self, inputs: int, width: int, halve: bool, first: bool, spectral: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Identity() if first else nn.ReLU(),
            spectral_norm(nn.Conv2d(inputs, width, 3, padding=1), spectral),
            nn.ReLU(),
            spectral_norm(nn.Conv2d(width, width, 3, padding=1), spectral),
        )
        straight = inputs == width and not halve
        self.shortcut = nn.Identity() if straight else spectral_norm(nn.Conv2d(inputs, width, 1), spectral)
        self.pool: nn.Module = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        return self.pool(self.branch(values) + self.shortcut(values))


class Critic(Network):
    """Images (n, c, h, w) to a vector (n, outputs): one number for a critic, twice the latent size for an encoder."""

    kind: ClassVar[PortKind] = "image_to_vector"
    settings_type = CriticSettings

    def __init__(self, settings: CriticSettings, port: Port) -> None:
        super().__init__(settings, port)
        width, spectral = settings.width, settings.spectral_norm
        self.label = joined_label(settings.conditioning, port.classes, port.image.height * port.image.width)
        inputs = port.image.channels + planes(self.label)
        blocks: list[nn.Module] = []
        for number in range(critic_halvings(port.image) + FLAT_BLOCKS):
            halve = number < critic_halvings(port.image)
            blocks.append(Block(inputs, width, halve, first=number == 0, spectral=spectral))
            inputs = width
        self.blocks = nn.Sequential(*blocks, nn.ReLU())
        self.head = spectral_norm(nn.Linear(width, port.outputs), spectral)
        wanted = port.classes and settings.conditioning == "projection"
        self.projection = Projection(port.classes, width, port.outputs, spectral) if wanted else None

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the head sees of the images: sums over all places, (n, width)."""
        return self.blocks(join_planes(images, self.label, labels)).sum(dim=(2, 3))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images, labels)
        outputs = self.head(features)
        return outputs if self.projection is None else outputs + self.projection(features, labels)


def critic_halvings(image: ImageShape) -> int:
    """How often the critic halves the sides: at least once, then as long as both are even and greater than 8."""
    height, width, count = image.height // 2, image.width // 2, 1
    while height % 2 == 0 and width % 2 == 0 and min(height, width) > 8:
        height, width, count = height // 2, width // 2, count + 1
    return count
