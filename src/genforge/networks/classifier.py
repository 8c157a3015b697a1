"""A small convolutional classifier: the eyes of the judge.

Plain, so that nothing about the numbers that rest on it is a mystery: convolutions with group normalisation (Wu & He
2018) and ReLU that halve the image until its sides are 4 pixels or fewer, one last convolution without padding, the
mean over what is left, and a linear head. That mean is what the judge looks at, as Heusel et al. 2017 look at the last
mean of Inception. Group normalisation sees one image at a time, so the features of an image do not depend on its batch.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from genforge.contracts import Network, Port, PortKind
from genforge.settings import Settings

LARGE = 16  # pixels: of a larger image the first layer keeps every second row and column, for speed
LEFT = 4  # pixels: sides that the last convolution sees, at most
GROUPS = 8


class ClassifierSettings(Settings):
    width: int = Field(
        32, ge=8, le=512, multiple_of=GROUPS, description="channels of the first layer; features are 4 times as many"
    )


class Classifier(Network):
    """Images to the logits of classes, by way of features: 4 * width numbers an image."""

    kind: ClassVar[PortKind] = "image_to_vector"
    settings_type = ClassifierSettings

    def __init__(self, settings: Settings, port: Port) -> None:
        assert isinstance(settings, ClassifierSettings)
        super().__init__(settings, port)
        self.dimensions = 4 * settings.width
        channels, sides = settings.width, (port.image.height, port.image.width)

        if max(sides) > LARGE:
            layers, sides = _layer(port.image.channels, channels, size=5, stride=2), _halved(sides)
        else:
            layers = _layer(port.image.channels, channels, size=3)
        self.largest = channels * sides[0] * sides[1]  # numbers an image; every later layer has half as many
        while max(sides) > LEFT:
            wider = min(2 * channels, self.dimensions)
            layers += _layer(channels, wider, size=3, stride=2)
            channels, sides = wider, _halved(sides)
        padding = 0 if min(sides) >= 3 else 1  # a very flat image has fewer rows left than the last convolution needs
        self.body = nn.Sequential(*layers, *_layer(channels, self.dimensions, size=3, padding=padding))
        self.head = nn.Linear(self.dimensions, port.outputs)

    def features(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w) in [-1, 1] to features (n, 4 * width), none negative."""
        return self.body(images).mean(dim=(2, 3))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (n, c, h, w) in [-1, 1] to logits (n, outputs). Labels are no input of a classifier."""
        return self.head(self.features(images))


def _layer(channels: int, wider: int, size: int, stride: int = 1, padding: int | None = None) -> list[nn.Module]:
    around = size // 2 if padding is None else padding
    return [
        nn.Conv2d(channels, wider, size, stride, around, bias=False),  # the normalisation's own shift takes its place
        nn.GroupNorm(GROUPS, wider),
        nn.ReLU(inplace=True),
    ]


def _halved(sides: tuple[int, int]) -> tuple[int, int]:
    return -(-sides[0] // 2), -(-sides[1] // 2)
