"""Style mixing (Karras et al. 2019, "A style-based generator architecture", section 3.1): some images are made of two
styles, so that neighbouring layers cannot rely on getting the same one."""

from __future__ import annotations

import torch
from torch import Tensor

from genforge.contracts import WithStyles


def mixed(generator: WithStyles, latent: Tensor, labels: Tensor | None, share: float) -> Tensor:
    """Images (n, c, h, w) of latents (n, latent_size), of which a `share` changes over to the style of another latent
    at a layer drawn at random."""
    first, second = (generator.styled(z, labels)[:, None] for z in (latent, torch.randn_like(latent)))
    count, layers = len(latent), generator.styles
    crossing = torch.randint(1, layers, (count, 1, 1), device=latent.device)
    # An image that is not mixed changes over after its last layer.
    crossing = torch.where(torch.rand(count, 1, 1, device=latent.device) < share, crossing, layers)
    layer = torch.arange(layers, device=latent.device)[None, :, None]
    return generator.synthesise(torch.where(layer < crossing, first, second))
