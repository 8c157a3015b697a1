"""Denoisers: a backbone wrapped in its preconditioning, so that loss and sampler meet only at D(noisy, sigma).

Everywhere noisy = clean + sigma * standard normal noise (Karras et al. 2022, "Elucidating the design space of
diffusion-based generative models", section 2), and

    D(x, sigma) = skip * x + out * F(input * x, time)        (their eq. 7)

with F the backbone. What other papers train on is this x in other units:

    Ho et al. 2020             x_t = x / sqrt(1 + sigma^2)    sigma = sqrt((1 - a_t) / a_t), a_t their cumulated alpha
    Lipman et al. 2022         x_t = x / (1 + sigma)          sigma = t / (1 - t), t = 1 the noise
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from genforge.contracts import Network, Port, PortKind
from genforge.settings import Settings

PathName = Literal["exploding", "straight", "preserving"]  # see genforge.samplers.paths


@dataclass(frozen=True)
class Scales:
    """The preconditioning at some noise levels, each (n,)."""

    skip: Tensor
    out: Tensor
    input: Tensor
    time: Tensor


class Denoiser(Network):
    """Base of all denoisers. A new one states its scales, its training noise, its sampling grid, the range that grids
    lie in, and the path along which a solver has the least to do on that grid."""

    kind: ClassVar[PortKind] = "denoiser"
    inner: ClassVar[tuple[str, ...]] = ("backbone",)
    takes_points = True
    path: PathName

    @classmethod
    def inner_port(cls, key: str, settings: Settings, port: Port) -> Port:
        channels = port.image.channels
        return Port("backbone", port.image, outputs=channels, classes=port.classes, unlabelled=port.unlabelled)

    def __init__(self, settings: Settings, port: Port, backbone: Network) -> None:
        super().__init__(settings, port)
        self.backbone = backbone

    @abstractmethod
    def scales(self, sigma: Tensor) -> Scales:
        """The preconditioning at the noise levels sigma, (n,)."""

    @abstractmethod
    def training_sigma(self, uniform: Tensor) -> Tensor:
        """Noise levels to train on: the inverse of their distribution function, at uniform numbers in [0, 1), (n,)."""

    @abstractmethod
    def sampling_sigmas(self, steps: int) -> Tensor:
        """The grid of a sampler of `steps` steps: float32 (steps + 1,), falling, the last zero, on any
        device."""

    @abstractmethod
    def sigma_range(self) -> tuple[float, float]:
        """The smallest and the largest noise level that a sampler may start from or pass."""

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight of the squared error of D at which F's own error has weight one: 1 / out^2. sigma: (n,)."""
        return self.scales(sigma).out.square().reciprocal()

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Noisy images (n, c, h, w) and their noise levels (n,) to an estimate of the clean images, float32."""
        scales = self.scales(sigma)
        output = self.backbone(_wide(scales.input) * noisy, scales.time, labels)
        return _wide(scales.skip) * noisy + _wide(scales.out) * output.float()


def karras_levels(low: float, high: float, steps: int, rho: float = 7.0) -> Tensor:
    """Noise levels from `high` down to `low`, closer and closer: float64 (steps,). Karras et al. 2022, eq. 5."""
    places = torch.linspace(0, 1, steps, dtype=torch.float64)
    return (high ** (1 / rho) + places * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def _wide(values: Tensor) -> Tensor:
    """(n,) to (n, 1, 1, 1)."""
    return values[:, None, None, None]
