"""The denoiser of flow matching along straight lines (Lipman et al. 2022; Liu et al. 2022, "rectified flow").

At time t the image has gone x_t = (1 - t) clean + t noise, and the backbone gives the velocity noise - clean. (Lipman
et al. count time the other way: their t is 1 - t here.) In our units noisy = x_t / (1 - t) and sigma = t / (1 - t), so
that D = x_t - t * velocity is the form of Karras et al. eq. 7. The base's weight 1 / t^2 makes the loss their eq. 23.

Time 1, all noise, is an infinite sigma. Sampling starts a little before, at `latest`, from noise alone: the share
1 - latest of the mean image that is left out there is less than a step of a pixel.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import Network, Port
from genforge.networks.denoiser import Denoiser, PathName, Scales
from genforge.settings import Settings


class FlowMatchingSettings(Settings):
    backbone: dict[str, Any] = Field(default_factory=lambda: {"name": "unet"}, description="the network inside")
    times: Literal["uniform", "logit-normal"] = Field(
        "uniform",
        description="distribution of time in training: uniform (Lipman 2022), or logit-normal (Esser 2024, eq. 19), "
        "which looks more at the middle, where the velocity is hardest to tell",
    )
    latest: float = Field(
        0.999, gt=0.5, lt=1.0, description="time at which sampling starts; training keeps as far off 1 and off 0"
    )


class FlowMatchingDenoiser(Denoiser):
    """Straight-line flow matching over any backbone."""

    settings_type = FlowMatchingSettings
    path: PathName = "straight"

    def __init__(self, settings: FlowMatchingSettings, port: Port, backbone: Network) -> None:
        super().__init__(settings, port, backbone)
        self.settings = settings

    def scales(self, sigma: Tensor) -> Scales:
        time = sigma / (1 + sigma)
        return Scales(1 / (1 + sigma), -time, 1 / (1 + sigma), time)

    def training_sigma(self, uniform: Tensor) -> Tensor:
        earliest, latest = 1 - self.settings.latest, self.settings.latest
        if self.settings.times == "uniform":
            time = earliest + (latest - earliest) * uniform
        else:
            time = torch.special.ndtri(uniform).sigmoid().clamp(earliest, latest)
        return time / (1 - time)

    def sigma_range(self) -> tuple[float, float]:
        latest = self.settings.latest
        return (1 - latest) / latest, latest / (1 - latest)

    def sampling_sigmas(self, steps: int) -> Tensor:
        """Even in time."""
        time = torch.linspace(self.settings.latest, 0, steps + 1, dtype=torch.float64)
        return (time / (1 - time)).float()
