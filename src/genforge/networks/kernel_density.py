"""A Gaussian around every training image (Rosenblatt 1956; Parzen 1962): what a model that repeats its data would do.

Its one bandwidth maximises the leave-one-out likelihood of the images (Duin 1976): each image's density under the
Gaussians around all others. In hundreds of dimensions it needs far more images than there are to be a good density,
and its samples are noisy copies; a model that cannot beat it on held-out images has not learned to generalise.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import Port, TrainingData
from genforge.networks.baselines import Baseline, variance_of
from genforge.settings import Settings, UserError

ROUNDS, TOLERANCE = 200, 1e-5  # of the search for the bandwidth; relative change of the variance at which it ends
AT_ONCE = 500  # images whose distances to all others are held together


class KernelDensitySettings(Settings):
    images: int = Field(
        5000, ge=2, le=100_000, description="at most this many training images, evenly spaced, have a Gaussian around"
    )


class KernelDensity(Baseline):
    settings_type = KernelDensitySettings
    images: Tensor  # (settings.images, image.size); the last ones are empty where there are fewer
    shares: Tensor  # (settings.images,), sum 1, equal for all that are not empty
    bandwidth: Tensor  # scalar, standard deviation of each Gaussian in every direction

    def __init__(self, settings: KernelDensitySettings, port: Port) -> None:
        super().__init__(settings, port)
        count = settings.images
        self.register_buffer("images", torch.zeros(count, port.image.size))
        self.register_buffer("shares", torch.full((count,), 1 / count))
        self.register_buffer("bandwidth", torch.ones(()))

    def fit(self, data: TrainingData) -> None:
        """Raises UserError when there are fewer than two different images."""
        chosen = _evenly_spaced(data, len(self.images)).to(self.images)
        self.images.zero_()
        self.images[: len(chosen)] = chosen
        self.shares.zero_()
        self.shares[: len(chosen)] = 1 / len(chosen)
        self.bandwidth.copy_(likeliest_bandwidth(chosen))

    def draw(self, pixels: Tensor, choice: Tensor) -> Tensor:
        edges = self.shares.double().cumsum(0)[:-1]
        return self.images[torch.searchsorted(edges, torch.special.ndtr(choice.double()))] + self.bandwidth * pixels

    def log_density(self, points: Tensor, cell: float = 0.0) -> Tensor:
        variance = self.bandwidth.double().square() + variance_of(cell)
        filled = self.shares > 0
        centres, shares = self.images[filled].double(), self.shares[filled].double().log()
        constant = 0.5 * points.shape[1] * (2 * math.pi * variance).log()
        told = [
            (shares - _squared_distances(some, centres) / (2 * variance)).logsumexp(dim=1)
            for some in points.split(AT_ONCE)
        ]
        return torch.cat(told) - constant


def _evenly_spaced(data: TrainingData, most: int) -> Tensor:
    """Flat training images, every k-th from the first, as many as `most` allows."""
    stride, place, chosen = -(-data.count // most), 0, []
    for chunk in data.chunks():
        chosen.append(chunk.images.flatten(1)[-place % stride :: stride])
        place += len(chunk)
    return torch.cat(chosen)


def likeliest_bandwidth(images: Tensor) -> Tensor:
    """The bandwidth of the largest leave-one-out likelihood of flat images (n, d), a float64 scalar.

    By expectation maximisation: each image is ascribed to the Gaussians around the others by their densities there, and
    the variance becomes the mean squared distance, per dimension, from what it is ascribed to. It never falls in
    likelihood. The first variance is large, so that the search comes from the smooth side.

    Raises:
        UserError: all images are the same.
    """
    points = images.double()
    count, size = points.shape
    itself = torch.arange(count, device=points.device)
    variance = 2 * points.var(dim=0, correction=0).mean()
    if not variance > 0:
        raise UserError("kernel-density: all training images are the same, so that no bandwidth is the likeliest")
    for _ in range(ROUNDS):
        total = torch.zeros_like(variance)
        for some in itself.split(AT_ONCE):
            squared = _squared_distances(points[some], points)  # (some, n)
            ascribed = -squared / (2 * variance)
            ascribed[torch.arange(len(some)), some] = -torch.inf
            total += (ascribed.softmax(dim=1) * squared).sum()
        before, variance = variance, (total / (count * size)).clamp(min=1e-12)
        if abs(variance - before) < TOLERANCE * before:
            break
    return variance.sqrt()


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """(n, d), (m, d) to (n, m)."""
    lengths = points.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return torch.addmm(lengths, points, centres.T, alpha=-2.0).clamp(min=0.0)
