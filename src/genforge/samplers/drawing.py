"""What every sampler starts with."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from genforge.contracts import Draw, Network


def device_of(network: Network) -> torch.device:
    """Where the network's parameters and buffers lie."""
    return next(itertools.chain(network.parameters(), network.buffers())).device


def begin(network: Network, draw: Draw) -> tuple[Tensor, Tensor | None]:
    """The draw's indices and labels on the network's device.

    Raises:
        ValueError: the network is in training mode, where an image would depend on its neighbours in the batch.
    """
    if network.training:
        raise ValueError("sampling from a network in training mode; call network.eval() first")
    device = device_of(network)
    return draw.indices.to(device), None if draw.labels is None else draw.labels.to(device)
