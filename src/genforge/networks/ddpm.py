"""The denoiser of DDPM (Ho et al. 2020): a schedule of noise levels, over which noise, image or velocity is predicted.

With alpha = 1 / sqrt(1 + sigma^2) and noisy = clean + sigma * noise, what the backbone is to give is `noise`, `clean`
or the velocity alpha * noise - alpha * sigma * clean (Salimans & Ho 2022): three views of one denoiser.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import Network, Port
from genforge.networks.denoiser import Denoiser, PathName, Scales
from genforge.settings import Settings, UserError

Prediction = Literal["noise", "image", "velocity"]


class DDPMSettings(Settings):
    backbone: dict[str, Any] = Field(default_factory=lambda: {"name": "unet"}, description="the network inside")
    schedule: Literal["linear", "cosine"] = Field(
        "cosine",
        description="how noise grows: linear (Ho 2020) or cosine (Nichol & Dhariwal 2021); cosine suits small images",
    )
    timesteps: int = Field(1000, ge=2, le=100_000, description="length of the schedule")
    prediction: Prediction = Field(
        "noise",
        description="what the backbone predicts: the noise (Ho 2020), the clean image, or the velocity "
        "(Salimans & Ho 2022)",
    )


class DDPMDenoiser(Denoiser):
    """The denoiser of denoising diffusion probabilistic models, over any backbone."""

    settings_type = DDPMSettings
    path: PathName = "preserving"
    sigmas: Tensor  # (timesteps,), rising

    def __init__(self, settings: DDPMSettings, port: Port, backbone: Network) -> None:
        super().__init__(settings, port, backbone)
        self.prediction: Prediction = settings.prediction
        kept = kept_signal(settings.schedule, settings.timesteps)
        self.register_buffer("sigmas", ((1 - kept) / kept).sqrt().float(), persistent=False)

    def scales(self, sigma: Tensor) -> Scales:
        one = torch.ones_like(sigma)
        match self.prediction:
            case "noise":  # clean = x - sigma * noise
                skip, out = one, -sigma
            case "image":
                skip, out = torch.zeros_like(sigma), one
            case (
                "velocity"
            ):  # clean = alpha x_t - sigma_t v (Salimans & Ho 2022, appendix D), alpha^2 = 1 / (1 + sigma^2)
                skip, out = 1 / (1 + sigma**2), -sigma / (1 + sigma**2).sqrt()
        return Scales(skip, out, 1 / (1 + sigma**2).sqrt(), self.time(sigma))

    def time(self, sigma: Tensor) -> Tensor:
        """Place in the schedule, 0 to 1: exact on the schedule, linear in log sigma between, held at the ends. (n,)"""
        table, value = self.sigmas.log(), sigma.clamp(self.sigmas[0], self.sigmas[-1]).log()
        above = torch.searchsorted(table, value).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        return (above - 1 + (value - low) / (high - low)) / (len(table) - 1)

    def training_sigma(self, uniform: Tensor) -> Tensor:
        return self.sigmas[(uniform * len(self.sigmas)).long().clamp(max=len(self.sigmas) - 1)]

    def sigma_range(self) -> tuple[float, float]:
        return float(self.sigmas[0]), float(self.sigmas[-1])

    def sampling_sigmas(self, steps: int) -> Tensor:
        """Steps spread evenly over the schedule, its last (noisiest) and its first included.

        Raises:
            UserError: more steps than the schedule has.
        """
        if not 1 <= steps <= len(self.sigmas):
            raise UserError(
                f"sampler.steps is {steps}; it should be 1 to {len(self.sigmas)}, the timesteps of the denoiser's "
                f"schedule"
            )
        places = torch.linspace(len(self.sigmas) - 1, 0, steps, dtype=torch.float64).round().long()
        return torch.cat([self.sigmas[places.to(self.sigmas.device)], self.sigmas.new_zeros(1)])


def kept_signal(schedule: Literal["linear", "cosine"], timesteps: int) -> Tensor:
    """Share of the signal's variance kept at each timestep (Ho's cumulated alpha): float64 (timesteps,), falling.

    linear: beta from 1e-4 to 0.02 at 1000 timesteps (Ho et al. 2020, section 4), scaled for other lengths so that the
    noise at the end is the same. cosine: Nichol & Dhariwal 2021, eq. 17, with s = 0.008 and beta at most 0.999.
    """
    if schedule == "linear":
        scale = 1000 / timesteps
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)
    else:
        place = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        target = torch.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = 1 - target[1:] / target[:-1]
    return torch.cumprod(1 - beta.clamp(max=0.999), dim=0)
