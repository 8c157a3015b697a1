"""Likelihoods by the probability-flow ODE (Song et al. 2021, "Score-based generative modeling through stochastic
differential equations", section 4.3 and appendix D.2).

An image is followed up to pure noise, whose density is known, and the way is accounted for by the flow's divergence.
With D(x, sigma) the predicted clean image, e = (x - D) / sigma the predicted noise and J the derivative of D by x, the
flow is followed in y = x cos u, u = arctan sigma, which stays of order one, by the time log sigma:

    dy / du = cos u e - sin u D,      div = (d - tr J) / sigma - sigma tr J,      d values an image,
    log p(x, low) = log p(y, high) + integral of div du + d log cos(arctan low),    du / d log sigma = cos u sin u.

In this time the integral is nearly all done by middle noise levels and fades at both ends, which the classical method
of Runge and Kutta (fourth order) on even steps suits well. At the top y is taken as normal with variance sin^2 u. tr J
is Hutchinson's estimate, the mean of v' J v over random signs v, which is right on the average and costs one
derivative; or exact, which costs d of them.

Levels of 8-bit images are made continuous by uniform noise over their cells (Theis et al. 2016); points are continuous
already. Guidance and clipping, which change what is drawn, take no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import CELL, Density, Draw, ImageShape, Network, Port
from genforge.networks.denoiser import Denoiser
from genforge.settings import Settings

DEQUANTISATION, PROBES = 0, 1  # streams of an image's noise; each further probe takes the next one


class ProbabilityFlowSettings(Settings):
    steps: int = Field(
        12, ge=1, le=10_000, description="of Runge and Kutta's method: four evaluations each, with their derivative"
    )
    trace: Literal["hutchinson", "exact"] = Field(
        "hutchinson",
        description="of the denoiser's derivative: hutchinson, an estimate without bias; exact, as many derivatives as "
        "an image has values, for small ones",
    )
    probes: int = Field(1, ge=1, le=1000, description="hutchinson: random directions an image")


class ProbabilityFlow(Density):
    kinds: ClassVar[tuple[str, ...]] = ("denoiser",)
    settings_type = ProbabilityFlowSettings
    exact = True

    @classmethod
    def suits(cls, port: Port) -> bool:
        return super().suits(port) and port.taught == "score"

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, ProbabilityFlowSettings)
        super().__init__(settings)
        self.steps, self.trace, self.probes = settings.steps, settings.trace, settings.probes
        probes = "1 probe" if self.probes == 1 else f"{self.probes} probes"
        trace = f"Hutchinson's trace, {probes}" if self.trace == "hutchinson" else "exact trace"
        self.how_of_points = f"probability-flow ODE, {self.steps} steps of Runge-Kutta; {trace}"
        self.how = f"{self.how_of_points}; uniform dequantisation, 1 draw"

    def how_of(self, image: ImageShape) -> str:
        return self.how_of_points if image.is_point else self.how

    @torch.no_grad()
    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        (network,) = (network for network in networks.values() if isinstance(network, Denoiser))
        shape = tuple(images.shape[1:])
        indices = draw.indices.to(images.device)
        labels = None if draw.labels is None else draw.labels.to(images.device)
        probes = [self._signs(draw.seed, indices, shape, PROBES + number) for number in range(self.probes)]
        if network.port.image.is_point:
            return self.log_density(network, images, labels, probes)
        cells = randomness.uniform(draw.seed, indices, shape, DEQUANTISATION) - 0.5
        size = images[0].numel()
        return self.log_density(network, images + CELL * cells, labels, probes) + size * math.log(CELL)

    @staticmethod
    def _signs(seed: int, indices: Tensor, shape: tuple[int, ...], stream: int) -> Tensor:
        """Of each value -1 or 1, as likely: of all directions the ones whose estimates vary least."""
        return (randomness.uniform(seed, indices, shape, stream) - 0.5).sign()

    def log_density(self, network: Denoiser, x: Tensor, labels: Tensor | None, probes: list[Tensor]) -> Tensor:
        """Of continuous images x (n, c, h, w) at the denoiser's smallest noise level: (n,) float64, nats.

        Args:
            probes: directions, each like x, for Hutchinson's estimate.
        """
        low, high = network.sigma_range()
        grid = torch.linspace(math.log(low), math.log(high), self.steps + 1, dtype=torch.float64).tolist()

        def flow(y: Tensor, log_sigma: float) -> tuple[Tensor, Tensor]:
            return self._flow(network, y, math.exp(log_sigma), labels, probes)

        y, gathered = x * math.cos(math.atan(low)), x.new_zeros(len(x), dtype=torch.float64)
        for begin, end in pairwise(grid):
            step, middle = end - begin, (begin + end) / 2
            first, divergence_1 = flow(y, begin)
            second, divergence_2 = flow(y + step / 2 * first, middle)
            third, divergence_3 = flow(y + step / 2 * second, middle)
            fourth, divergence_4 = flow(y + step * third, end)
            y = y + step / 6 * (first + 2 * second + 2 * third + fourth)
            gathered += step / 6 * (divergence_1 + 2 * divergence_2 + 2 * divergence_3 + divergence_4)
        size, variance = x[0].numel(), math.sin(math.atan(high)) ** 2
        at_the_top = -0.5 * (y.double().square().flatten(1).sum(1) / variance + size * math.log(2 * math.pi * variance))
        return at_the_top + gathered + size * math.log(math.cos(math.atan(low)))

    def _flow(
        self, network: Denoiser, y: Tensor, sigma: float, labels: Tensor | None, probes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """dy / d log sigma, like y, and the divergence of this flow, float64 (n,)."""
        u = math.atan(sigma)
        x = y / math.cos(u)
        clean, trace = self._denoise(network, x, sigma, labels, probes)
        slope = math.cos(u) * (x - clean) / sigma - math.sin(u) * clean
        divergence = (y[0].numel() - trace) / sigma - sigma * trace
        pace = math.cos(u) * math.sin(u)  # du / d log sigma
        return pace * slope, pace * divergence

    def _denoise(
        self, network: Denoiser, x: Tensor, sigma: float, labels: Tensor | None, probes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """D, and the trace of its derivative, float64 (n,)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            clean = network(x, x.new_full((len(x),), sigma), labels)
            directions = probes if self.trace == "hutchinson" else _axes(x)
            along = [
                (torch.autograd.grad(clean, x, direction, retain_graph=True)[0] * direction).flatten(1).double().sum(1)
                for direction in directions
            ]
        trace = torch.stack(along).mean(0) if self.trace == "hutchinson" else torch.stack(along).sum(0)
        return clean.detach(), trace


def _axes(x: Tensor) -> list[Tensor]:
    """The directions of single values, each like x (n, c, h, w)."""
    size = x[0].numel()
    return [row.view(x.shape[1:]).expand_as(x) for row in torch.eye(size, dtype=x.dtype, device=x.device)]
