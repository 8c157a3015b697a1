"""RealNVP without space: couplings of linear layers over the values as one vector (Dinh et al. 2017, section 3.2).

For points of the plane, of which one coordinate tells how to scale and shift the other, in turn; for small images as a
lesson in what convolutions are for. Values take part in an order that is drawn anew for each coupling, so that more
than two of them meet in every combination.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from genforge.contracts import Port
from genforge.networks.conditioning import OneHot, join, label_size
from genforge.networks.flow import ActivationNorm, AffineCoupling, Bijection, Channels, Encoded, Flow, Logit
from genforge.networks.layers import zero
from genforge.settings import Settings


class RealNVPMLPSettings(Settings):
    width: int = Field(64, ge=4, le=4096, description="values in each hidden layer of the couplings' networks")
    layers: int = Field(2, ge=1, le=8, description="hidden layers in each")
    couplings: int = Field(12, ge=2, le=128, description="couplings")
    alpha: float | None = Field(
        None,
        gt=0.0,
        lt=0.5,
        description="of the logit that values go through first (section 4.1), which suits pixels; null: none",
    )


class Layers(nn.Module):
    """What scale and shift are made of. The last layer begins at zero, and so each coupling as the identity."""

    def __init__(self, inputs: int, outputs: int, settings: RealNVPMLPSettings, classes: int) -> None:
        super().__init__()
        self.label = OneHot(classes) if classes else None
        inputs += label_size(self.label)
        hidden: list[nn.Module] = []
        for _ in range(settings.layers):
            hidden += [nn.Linear(inputs, settings.width), nn.SiLU()]
            inputs = settings.width
        self.layers = nn.Sequential(*hidden, zero(nn.Linear(inputs, outputs)))

    def forward(self, a: Tensor, labels: Tensor | None) -> Tensor:
        return self.layers(join(a, self.label, labels))


class Permutation(Bijection):
    """Values in another order, drawn once."""

    order: Tensor
    back: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(size))
        self.register_buffer("back", self.order.argsort())

    def forward(self, x: Tensor, labels: Tensor | None) -> Encoded:
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, y: Tensor, labels: Tensor | None) -> Tensor:
        return y[:, self.back]


class RealNVPMLP(Flow):
    """Points or images (n, c, h, w) to as many standard normal numbers, and back."""

    settings_type = RealNVPMLPSettings
    takes_points = True

    def __init__(self, settings: RealNVPMLPSettings, port: Port) -> None:
        super().__init__(settings, port)
        size = port.image.size
        layers: list[Bijection] = [Logit(settings.alpha)] if settings.alpha is not None else []
        for number in range(settings.couplings):
            halves = Channels(size, turned=bool(number % 2))
            network = Layers(halves.read, 2 * halves.changed, settings, port.classes)
            layers += [ActivationNorm(size), AffineCoupling(network, halves)]
            if size > 2 and number % 2:
                layers.append(Permutation(size))
        self.layers = nn.ModuleList(layers)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Encoded:
        x, total = images.float().flatten(1), images.new_zeros(len(images), dtype=torch.float32)
        for layer in self.layers:
            x, log_determinant = layer(x, labels)
            total = total + log_determinant
        return x, total

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        image = self.port.image
        x = latent[:, : image.size]
        for layer in reversed(list(self.layers)):
            assert isinstance(layer, Bijection)
            x = layer.inverse(x, labels)
        return x.unflatten(1, (image.channels, image.height, image.width))
