"""Denoisers that are known exactly: of a Gaussian and of a mixture of two, on images of three pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from genforge.samplers.diffusion import DiffusionSampler, State

MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
ROOT = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.2, 0.0], [-0.1, 0.1, 0.05]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T
CENTRES, SPREAD = torch.tensor([[0.6, 0.4, -0.2], [-0.5, 0.1, 0.3]], dtype=torch.float64), 0.2


def gaussian(noisy: Tensor, sigma: Tensor) -> Tensor:
    """E[clean | noisy] for clean ~ N(MEAN, COVARIANCE). noisy: float64 (n, 1, 1, 3); sigma: ()."""
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma**2 * torch.eye(3, dtype=torch.float64))
    return MEAN + (noisy - MEAN) @ gain.T


def mixture(noisy: Tensor, sigma: Tensor) -> Tensor:
    """E[clean | noisy] for clean of two Gaussians around CENTRES with standard deviation SPREAD, equally likely."""
    variance = SPREAD**2 + sigma**2
    distance = (noisy[..., None, :] - CENTRES).square().sum(-1)  # (n, 1, 1, 2)
    centre = (-distance / (2 * variance)).softmax(-1) @ CENTRES
    return centre + SPREAD**2 / variance * (noisy - centre)


def flow(denoise: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, start: float, end: float) -> Tensor:
    """Where the probability-flow ODE takes noisy, from noise level `start` to `end`: solved to 12 digits by SciPy, in
    log sigma."""

    def slope(log_sigma: float, flat: np.ndarray) -> np.ndarray:
        at = torch.from_numpy(flat).view_as(noisy)
        return (at - denoise(at, torch.tensor(np.exp(log_sigma)))).flatten().numpy()

    span = (np.log(start), np.log(end))
    solution = solve_ivp(slope, span, noisy.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(solution.y[:, -1]).view_as(noisy)


def silent(stream: int) -> Tensor:
    raise AssertionError("a solver of the ODE took fresh noise")


def walked(
    sampler: DiffusionSampler, denoise: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, levels: Tensor
) -> list[State]:
    states: Iterator[State] = sampler.walk(denoise, noisy, torch.cat([levels, levels.new_zeros(1)]), silent)
    return list(states)
