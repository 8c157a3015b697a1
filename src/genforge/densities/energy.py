"""What an energy tells of how likely images are: log p(x) = -E(x) - log Z, where nobody knows Z.

It is the same for all images, so that images can be compared by it; models cannot, and no bits per dimension follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from genforge.contracts import Density, Draw, Network
from genforge.settings import Settings


class EnergyDensitySettings(Settings):
    """There is nothing to set."""


class EnergyDensity(Density):
    kinds: ClassVar[tuple[str, ...]] = ("energy",)
    settings_type = EnergyDensitySettings
    exact = True
    normalised = False
    how = "minus the energy, not normalised"

    @torch.no_grad()
    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        (network,) = networks.values()
        labels = None if draw.labels is None else draw.labels.to(images.device)
        return -network(images, labels).double()
