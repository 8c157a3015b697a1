"""An energy: a network f that gives each image a number, divided by a temperature, in a wide well.

p(x) is proportional to exp(-E(x)) with E(x) = f(x) / temperature + |x|^2 / (2 well^2): a normal distribution of
standard deviation `well`, bent by the network (Xie et al. 2016, "A theory of generative ConvNet", eq. 3). With spectral
normalisation f grows no faster than its argument, the well does, and so p is a distribution whatever the weights; what
f lacks in steepness the temperature gives.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from genforge.contracts import Network, Port, PortKind
from genforge.settings import Settings


class EnergySettings(Settings):
    backbone: dict[str, Any] = Field(
        default_factory=lambda: {"name": "dcgan-critic", "spectral_norm": True}, description="the network f"
    )
    temperature: float = Field(
        0.02, gt=0.0, description="what f is divided by: the smaller, the steeper an energy can be"
    )
    well: float = Field(
        2.0, gt=0.0, description="standard deviation of the normal around 0 that f bends; pixels are in [-1, 1]"
    )


class Energy(Network):
    """Images (n, c, h, w) to energies (n,), float32, in nats."""

    kind: ClassVar[PortKind] = "energy"
    settings_type = EnergySettings
    inner = ("backbone",)
    takes_points = True
    channels_first_on_cpu: ClassVar[bool] = True  # chains follow slopes in the image, one short pass after another

    @classmethod
    def inner_port(cls, key: str, settings: Settings, port: Port) -> Port:
        return Port("image_to_vector", port.image, outputs=1, classes=port.classes)

    def __init__(self, settings: EnergySettings, port: Port, backbone: Network) -> None:
        super().__init__(settings, port)
        self.backbone, self.temperature, self.well = backbone, settings.temperature, settings.well

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        walls = images.float().square().flatten(1).sum(dim=1) / (2 * self.well**2)
        return self.backbone(images, labels).float().squeeze(1) / self.temperature + walls

    def energy(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The same, under the name by which strange images are looked for (`evaluation.anomaly.WithEnergy`)."""
        return self(images, labels)
