"""Pictures that are given: changed as a whole (image to image), or kept but for a hole (inpainting).

Image to image (Meng et al. 2022, "SDEdit"): noise is laid over the picture up to some level and taken away again; the
higher the level, the less of the picture is left. Inpainting (Song et al. 2021, appendix I.2): the kept pixels follow
the picture under the image's own noise on the whole way down, and only the others are drawn. Here that is one rule,
which every sampler obeys: where a pixel is kept, the denoiser's answer is the picture's.

Kept pixels lead the others step by step; they are not a condition in the strict sense of probability, which neither
paper claims.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genforge import randomness
from genforge.contracts import Draw
from genforge.networks.denoiser import Denoiser
from genforge.samplers.diffusion import DiffusionSampler
from genforge.samplers.drawing import begin
from genforge.settings import UserError


def covering(sampler: DiffusionSampler, network: Denoiser, strength: float) -> float:
    """The noise level of the sampler's grid from which `strength` of its steps are left, one at least: 1 is the start.

    Args:
        strength: 0 to 1, how much of the picture may change.
    """
    sigmas = sampler.grid(network)
    steps = len(sigmas) - 1
    return sigmas[steps - max(1, round(strength * steps))].item()


@torch.no_grad()
def edit(
    sampler: DiffusionSampler,
    network: Denoiser,
    draw: Draw,
    pictures: Tensor,
    keep: Tensor | None = None,
    sigma: float | None = None,
) -> Tensor:
    """Images drawn from given pictures, (n, c, h, w), on the network's device. Image i of a seed depends on its picture
    and its number alone.

    Args:
        pictures: one a drawn image, float (n, c, h, w) in [-1, 1].
        keep: bool, broadcast against the pictures: which pixels are to be the picture's own. None: none of them.
        sigma: noise level up to which the picture is covered: sampling starts at the largest level of the sampler's
            grid that is not above. None: at the very start, where nothing of the picture is left but what is kept.

    Raises:
        UserError: there is no level of the grid at or below `sigma`.
    """
    indices, labels = begin(network, draw)
    shape = tuple(pictures.shape[1:])
    pictures = pictures.to(indices.device)
    kept = torch.zeros_like(pictures, dtype=torch.bool) if keep is None else keep.to(indices.device)
    sigmas = sampler.grid(network).to(indices.device)
    if sigma is not None:
        sigmas = sigmas[sigmas <= sigma]
        if len(sigmas) < 2:
            low = sampler.grid(network)[-2].item()
            raise UserError(f"sigma is {sigma:g}; it should be at least {low:g}, the sampler's smallest noise level")
    denoise = sampler.denoise(network, labels)

    def denoise_around_the_kept(noisy: Tensor, level: Tensor) -> Tensor:
        return torch.where(kept, pictures, denoise(noisy, level))

    def noise(stream: int) -> Tensor:
        return randomness.normal(draw.seed, indices, shape, stream)

    covered = pictures if sigma is not None else torch.where(kept, pictures, 0.0)
    *_, last = sampler.walk(denoise_around_the_kept, covered + sigmas[0] * noise(0), sigmas, noise, network.path)
    return last.noisy
