"""The style-based pair of Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN" (StyleGAN2).

The latent is mapped to a style (section 2 of Karras et al. 2019, "A style-based generator architecture"), and the style
scales the input channels of every convolution, whose outputs are brought back to unit size by what the weights say
(section 2.2, eqs. 1 and 3). Noise of its own is added to every layer. The generator sums images of all sizes, the
critic is residual (section 4.1, Figure 7: output skips, residual discriminator). Sizes are those of `layers.halvings`.

Scaling inputs and outputs around one convolution is the same as a kernel of each image's own, and faster on a CPU.

Three things are not the second paper's, and help short trainings (docs/gans.md has what was measured):

- Layers get a style less the mean of all styles. The mapping ends in a rectifier, so that about a third of a style's
  power is the same for every latent. Adam moves all weights of a layer from style to scales by one length, and those
  moves add up along that common part: what all images share was learned several times as fast as what tells them
  apart.
- Images may begin as what their style says of every place (`start: style`), which is configuration C of Karras et al.
  2019, Table 1, whose "traditional input" the paper then replaces by a constant at no loss. A style can only scale a
  constant, so that for hundreds of steps all images are variations of the one shape that the constant is learned to be.
- Images are a quarter of what the layers sum up, as in Karras et al. 2021, "Alias-free generative adversarial networks"
  (their `output_scale`): so they begin with about the spread of real ones, and not with several times as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import Network, Port, PortKind
from genforge.networks.conditioning import (
    CriticConditioning,
    Projection,
    join,
    join_planes,
    joined_label,
    label_size,
    planes,
)
from genforge.networks.equalised import EqualisedConv, EqualisedLinear, MinibatchDeviation, rectified, unit_length
from genforge.networks.layers import halvings
from genforge.settings import Settings

MAPPING_RATE = 0.01  # how much more slowly the mapping learns (Karras et al. 2019, appendix C)
STYLE_KEPT = 0.995  # of the running mean style, an update
STYLES_AT_FIRST = 1000  # of which the mean is the first one
IMAGE_SCALE = 0.25  # of images, in what the layers sum up
Width = Field(32, ge=4, le=512, description="channels at the largest size; they double at each smaller one")
Widest = Field(256, ge=4, le=1024, description="channels at most")


class GeneratorSettings(Settings):
    width: int = Width
    widest: int = Widest
    style_size: int = Field(128, ge=4, le=1024, description="length of a style (Karras et al.: 512)")
    mapping_layers: int = Field(
        4, ge=1, le=16, description="layers from latent to style (Karras et al.: 8; 2 for CIFAR-10 in their 2020 ADA)"
    )
    start: Literal["constant", "style"] = Field(
        "constant",
        description="what the first layer scales: a learned constant, the same for all images (Karras et al. 2019, "
        "section 2), or what the style says of every place (configuration C of their Table 1), which short trainings "
        "need",
    )
    noise: bool = Field(
        True,
        description="every layer adds noise of its own: for what is chance in large images, such as hair (Karras et "
        "al. 2019, section 3.2; their 2021 networks do without)",
    )
    conditioning: Literal["embedding", "concatenation"] = Field(
        "embedding", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )


class Generator(Network):
    """Latent (n, latent_size) to images (n, c, h, w), nominally in [-1, 1].

    `forward` takes fresh noise in training, and the same noise for every image in evaluation. Who wants noise of each
    image's own, several styles in one image, or styles nearer to the mean calls `styled` and `synthesise`.
    """

    kind: ClassVar[PortKind] = "latent_to_image"
    settings_type = GeneratorSettings
    style_mean: Tensor

    def __init__(self, settings: GeneratorSettings, port: Port) -> None:
        super().__init__(settings, port)
        image, doublings, size = port.image, halvings(port.image), settings.style_size
        widths = channels_of(settings.width, settings.widest, doublings)
        height, width = image.height >> doublings, image.width >> doublings
        self.label = joined_label(settings.conditioning, port.classes, port.latent_size)
        inputs = [port.latent_size + label_size(self.label), *[size] * (settings.mapping_layers - 1)]
        self.mapping = nn.ModuleList(EqualisedLinear(count, size, rate=MAPPING_RATE) for count in inputs)
        shape = (widths[0], height, width)
        self.start: nn.Module = StyledStart(size, shape) if settings.start == "style" else ConstantStart(shape)
        self.layers = nn.ModuleList([StyledLayer(widths[0], widths[0], size, settings.noise)])
        self.images = nn.ModuleList([Modulated(widths[0], image.channels, 1, size, demodulate=False)])
        self.image_biases = nn.ParameterList([torch.zeros(1, image.channels, 1, 1)])
        self.noise_shapes = [(1, height, width)]
        for before, after in pairwise(widths):
            height, width = 2 * height, 2 * width
            self.layers.append(StyledLayer(before, after, size, settings.noise, double=True))
            self.layers.append(StyledLayer(after, after, size, settings.noise))
            self.images.append(Modulated(after, image.channels, 1, size, demodulate=False))
            self.image_biases.append(torch.zeros(1, image.channels, 1, 1))
            self.noise_shapes += [(1, height, width)] * 2
        self.noise_shapes = self.noise_shapes if settings.noise else []
        self.styles = len(self.layers) + 1  # the last one is of the last image alone
        self.register_buffer("style_mean", torch.zeros(size))
        for number, shape in enumerate(self.noise_shapes):
            self.register_buffer(f"noise_{number}", torch.randn(1, *shape))
        with torch.no_grad():
            labels = torch.randint(port.classes, (STYLES_AT_FIRST,)) if port.classes else None
            self.style_mean.copy_(self._mapped(torch.randn(STYLES_AT_FIRST, port.latent_size), labels).mean(dim=0))

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.synthesise(self.styled(latent, labels)[:, None].expand(-1, self.styles, -1))

    def styled(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents (n, latent_size) to styles (n, style_size). In training their running mean goes along."""
        values = self._mapped(latent, labels)
        if self.training:
            self.style_mean.lerp_(values.detach().float().mean(dim=0), 1 - STYLE_KEPT)
        return values

    def _mapped(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        values = unit_length(join(latent, self.label, labels))
        for layer in self.mapping:
            values = rectified(layer(values))
        return values

    def synthesise(self, styles: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Styles (n, styles, style_size), one for each layer, to images (n, c, h, w).

        Args:
            noise: (n, *shape) for each of `noise_shapes`, of which there are none without noise; None: fresh in
                training, constant in evaluation.
        """
        if noise is None:
            noise = self._fresh(styles) if self.training else self._constant()
        styles = styles - self.style_mean
        values = self.start(styles[:, 0])
        image = None
        for number, layer in enumerate(self.layers):
            values = layer(values, styles[:, number], noise[number] if noise else None)
            if number % 2 == 0:  # the last layer of its size
                made = self.images[number // 2](values, styles[:, number + 1]) + self.image_biases[number // 2]
                image = made if image is None else made + doubled(image)
        assert image is not None
        return IMAGE_SCALE * image

    def _fresh(self, styles: Tensor) -> list[Tensor]:
        return [torch.randn(len(styles), *shape, device=styles.device) for shape in self.noise_shapes]

    def _constant(self) -> list[Tensor]:
        return [self.get_buffer(f"noise_{number}") for number in range(len(self.noise_shapes))]


class ConstantStart(nn.Module):
    """One learned constant for all images: styles (n, style_size) to (n, *shape)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(1, *shape))

    def forward(self, styles: Tensor) -> Tensor:
        return self.values.expand(len(styles), -1, -1, -1)


class StyledStart(nn.Module):
    """What an image begins as is said by its style, place by place: styles (n, style_size) to (n, *shape)."""

    def __init__(self, style_size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.project, self.shape = EqualisedLinear(style_size, math.prod(shape)), shape

    def forward(self, styles: Tensor) -> Tensor:
        return self.project(styles).unflatten(1, self.shape)


class Modulated(nn.Module):
    """A convolution whose input channels are scaled by the style: (n, inputs, h, w) and (n, style_size) to
    (n, outputs, h, w), or to twice the sides.

    With demodulation its outputs have about unit deviation where its inputs have: divided by the length of each
    output's scaled weights (eq. 3).
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, style_size: int, demodulate: bool = True, double: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.style = EqualisedLinear(style_size, inputs, bias=1.0)
        self.scale = 1 / math.sqrt(inputs * size**2)
        self.demodulate, self.doubles = demodulate, double

    def forward(self, values: Tensor, styles: Tensor) -> Tensor:
        scales = self.style(styles)  # (n, inputs)
        weight = self.weight * self.scale
        values = values * scales[:, :, None, None]
        if self.doubles:
            # Twice the sides and one more, which the filter takes away.
            values = filtered(functional.conv_transpose2d(values, weight.transpose(0, 1), stride=2), 1, gain=4.0)
        else:
            values = functional.conv2d(values, weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return values
        squares = weight.square().sum(dim=(2, 3))  # (outputs, inputs)
        return values * (scales.square() @ squares.T + 1e-8).rsqrt()[:, :, None, None]


class StyledLayer(nn.Module):
    """A modulated convolution, then noise (if there is any) of a strength that is learned, a bias and the rectifier."""

    def __init__(self, inputs: int, outputs: int, style_size: int, noise: bool, double: bool = False) -> None:
        super().__init__()
        self.convolution = Modulated(inputs, outputs, 3, style_size, double=double)
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))

    def forward(self, values: Tensor, styles: Tensor, noise: Tensor | None) -> Tensor:
        values = self.convolution(values, styles)
        if self.strength is not None and noise is not None:
            values = values + self.strength * noise
        return rectified(values + self.bias)


class CriticSettings(Settings):
    width: int = Width
    widest: int = Widest
    minibatch_deviation: bool = Field(True, description="let the critic see how varied its batch is")
    conditioning: CriticConditioning = Field(
        "projection", description="how labels come in, where there are any (`networks/conditioning.py`)"
    )


class Critic(Network):
    """Images (n, c, h, w) to a vector (n, outputs): one number for a critic, twice the latent size for an encoder."""

    kind: ClassVar[PortKind] = "image_to_vector"
    settings_type = CriticSettings

    def __init__(self, settings: CriticSettings, port: Port) -> None:
        super().__init__(settings, port)
        image, halved = port.image, halvings(port.image)
        widths = channels_of(settings.width, settings.widest, halved)[::-1]
        self.label = joined_label(settings.conditioning, port.classes, image.height * image.width)
        self.first = EqualisedConv(image.channels + planes(self.label), widths[0], 1)
        self.blocks = nn.Sequential(*(Halving(before, after) for before, after in pairwise(widths)))
        last, places = widths[-1], (image.height >> halved) * (image.width >> halved)
        self.deviation: nn.Module = MinibatchDeviation() if settings.minibatch_deviation else nn.Identity()
        self.last = EqualisedConv(last + int(settings.minibatch_deviation), last, 3)
        self.hidden = EqualisedLinear(last * places, last)
        self.head = EqualisedLinear(last, port.outputs)
        wanted = port.classes and settings.conditioning == "projection"
        self.projection = Projection(port.classes, last, port.outputs, spectral=False) if wanted else None
        # Like the head's, an output of the projection begins with about unit deviation.
        self.projection_scale = 1 / math.sqrt(last)

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the head sees of the images: (n, values)."""
        values = rectified(self.first(join_planes(images, self.label, labels)))
        values = rectified(self.last(self.deviation(self.blocks(values))))
        return rectified(self.hidden(values.flatten(1)))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images, labels)
        outputs = self.head(features)
        return (
            outputs if self.projection is None else outputs + self.projection_scale * self.projection(features, labels)
        )


class Halving(nn.Module):
    """A residual block, (n, inputs, h, w) to (n, outputs, h / 2, w / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualisedConv(inputs, inputs, 3)
        self.second = EqualisedConv(inputs, outputs, 3, stride=2, padding=0)
        self.shortcut = EqualisedConv(inputs, outputs, 1)

    def forward(self, values: Tensor) -> Tensor:
        branch = rectified(self.second(filtered(rectified(self.first(values)), 2)))
        return (branch + self.shortcut(filtered(values, 1, stride=2))) / math.sqrt(2)


def channels_of(width: int, widest: int, halved: int) -> list[int]:
    """Channels at each size, from the smallest to the largest."""
    return [min(width * 2**level, widest) for level in range(halved, -1, -1)]


def filtered(values: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
    """Every channel under the filter (1, 3, 3, 1) in both directions, which sums to `gain`: it goes with every change
    of size."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=values.device, dtype=values.dtype)
    kernel = (taps[:, None] * taps * (gain / 64)).expand(values.shape[1], 1, 4, 4)
    return functional.conv2d(values, kernel, stride=stride, padding=padding, groups=values.shape[1])


def doubled(images: Tensor) -> Tensor:
    """Twice the sides, by the same filter."""
    return functional.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
