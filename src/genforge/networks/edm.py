"""The denoiser of EDM (Karras et al. 2022): what the backbone sees and what it is to give have unit variance.

For images of standard deviation s around zero the scales are those of their table 1, last column, derived in their
appendix B.6: `input` gives the noisy image unit variance, `out` the backbone's target, and `skip` makes `out` as small
as can be, so that the backbone's errors are magnified as little as can be. The weight that the base takes from `out` is
then their lambda(sigma) = (sigma^2 + s^2) / (sigma s)^2.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genforge.contracts import Network, Port
from genforge.networks.denoiser import Denoiser, PathName, Scales, karras_levels
from genforge.settings import Settings


class EDMSettings(Settings):
    backbone: dict[str, Any] = Field(default_factory=lambda: {"name": "unet"}, description="the network inside")
    sigma_data: float = Field(
        0.5, gt=0.0, description="root mean square of the data's pixels, in -1 to 1: their deviation around zero"
    )
    log_sigma_mean: float = Field(-1.2, description="mean of log sigma in training: where learning is worth most")
    log_sigma_deviation: float = Field(1.2, gt=0.0, description="standard deviation of log sigma in training")
    sigma_min: float = Field(0.002, gt=0.0, description="sampling: the smallest noise level above zero")
    sigma_max: float = Field(80.0, gt=0.0, description="sampling: the largest noise level, where it starts")
    rho: float = Field(7.0, ge=1.0, description="sampling: larger puts more steps at small noise levels")

    @model_validator(mode="after")
    def _in_order(self) -> EDMSettings:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min below sigma_max, not {self.sigma_min} and {self.sigma_max}")
        return self


class EDMDenoiser(Denoiser):
    """EDM preconditioning over any backbone."""

    settings_type = EDMSettings
    path: PathName = "exploding"

    def __init__(self, settings: EDMSettings, port: Port, backbone: Network) -> None:
        super().__init__(settings, port, backbone)
        self.settings = settings

    def scales(self, sigma: Tensor) -> Scales:
        data = self.settings.sigma_data
        variance = sigma**2 + data**2
        return Scales(data**2 / variance, sigma * data / variance.sqrt(), variance.rsqrt(), sigma.log() / 4)

    def training_sigma(self, uniform: Tensor) -> Tensor:
        """log sigma is normal. Both ends of `uniform` are kept off 0 and 1, where it would be infinite."""
        edge = 2.0**-24
        normal = torch.special.ndtri(uniform.clamp(edge, 1 - edge))
        return (self.settings.log_sigma_mean + self.settings.log_sigma_deviation * normal).exp()

    def sigma_range(self) -> tuple[float, float]:
        return self.settings.sigma_min, self.settings.sigma_max

    def sampling_sigmas(self, steps: int) -> Tensor:
        levels = karras_levels(*self.sigma_range(), steps, self.settings.rho)
        return torch.cat([levels, levels.new_zeros(1)]).float()
