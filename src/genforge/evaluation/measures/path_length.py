"""Perceptual path length in the latent space (Karras et al. 2019, section 4.1), with the features of the extractor.

How fast images change along the way from one latent to another: a smooth generator has no sudden turns. For a step e
at a random place t of the way, the mean of d(G(z(t)), G(z(t + e))) / e^2, where d is the squared distance of features
of length 1, in the place of LPIPS. The way turns the direction evenly from one latent's to the other's (slerp) while
its length goes evenly too, so latents stay as long as normal noise is. As there, the lowest and highest 1% are left
out. Images are not rounded to whole levels, or a small step would change nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genforge.evaluation.measures.diversity import unit
from genforge.evaluation.metric import LatentEvidence, Metric

PAIRS, STEP = 1000, 1e-4
LEFT_OUT = 1.0  # percent, at either end
AT_ONCE = 100  # pairs


def settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"pairs": min(PAIRS, images), "step": STEP}


def path_length(evidence: LatentEvidence, pairs: int, step: float) -> float:
    import torch

    from genforge import randomness
    from genforge.samplers.interpolation import along

    seed, indices = randomness.derive(evidence.seed, "path length"), torch.arange(pairs)
    shape = (evidence.network.port.latent_size,)
    first, second = (randomness.normal(seed, indices, shape, stream=stream).double() for stream in (0, 1))
    places = randomness.uniform(seed, indices, (1,), stream=2).double()

    lengths = []
    for start in range(0, pairs, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        labels = None if evidence.labels is None else evidence.labels[part].to(evidence.device)
        seen = []
        for place in (places[part], places[part] + step):
            latents = along(first[part], second[part], place).float().to(evidence.device)
            with torch.no_grad():
                seen.append(unit(evidence.features(evidence.network(latents, labels)).cpu().numpy()))
        lengths.append(((seen[1] - seen[0]) ** 2).sum(axis=1) / step**2)
    found = np.concatenate(lengths)
    low, high = np.percentile(found, [LEFT_OUT, 100 - LEFT_OUT])
    return float(found[(low <= found) & (found <= high)].mean())


PATH_LENGTH = Metric(
    name="path_length",
    title="Path length",
    better="lower",
    meaning="how fast the features of images, each of length 1, change along the way between two latents: perceptual "
    "path length with the features of the extractor in the place of LPIPS (Karras et al. 2019)",
    compute=path_length,
    settings=settings,
    needs="latent",
    decimals=1,
)
