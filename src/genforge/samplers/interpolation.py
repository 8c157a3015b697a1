"""The way from one latent to another.

It turns the direction evenly from the one's to the other's (slerp, White 2016, "Sampling generative networks", section
2.1) while its length goes evenly too, so that on the way latents stay as long as normal noise is: in many dimensions a
straight line would pass near zero, where no latent of training was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genforge.contracts import Draw, Network, WithLatents


def along(first: Tensor, second: Tensor, place: Tensor) -> Tensor:
    """The latents (n, d) at `place` (n, 1), 0 to 1, of the ways from `first` to `second`, both (n, d)."""
    lengths = [latent.norm(dim=1, keepdim=True) for latent in (first, second)]
    one, other = first / lengths[0], second / lengths[1]
    angle = (one * other).sum(dim=1, keepdim=True).clamp(-1 + 1e-12, 1 - 1e-12).acos()
    direction = (((1 - place) * angle).sin() * one + (place * angle).sin() * other) / angle.sin()
    return (lengths[0] + place * (lengths[1] - lengths[0])) * direction


def interpolate(sampler: WithLatents, network: Network, first: Draw, second: Draw, places: int) -> Tensor:
    """Images on the ways from those of `first` to those of `second`: (n, places, c, h, w), both ends included.

    What else is random, and the labels, are those of `first` all the way: of two draws that differ in these, the last
    image is not `second`'s own.
    """
    begin, end = (sampler.latents(network, draw) for draw in (first, second))
    columns = []
    for place in torch.linspace(0, 1, places, dtype=torch.float64, device=begin.device):
        latents = along(begin.double().flatten(1), end.double().flatten(1), place.expand(len(begin), 1))
        columns.append(sampler.from_latents(network, latents.float().reshape(begin.shape), first))
    return torch.stack(columns, dim=1)
