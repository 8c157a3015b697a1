"""The likelihood of held-out images, measured: what a density tells of each, batch by batch, and the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from genforge.contracts import Density, Draw, ImageShape, Network, to_network
from genforge.evaluation.likelihood import Likelihood, LikelihoodProtocol
from genforge.files import digest_bytes

SPLIT = "test"
GIVEN_LABELS = ", given their classes"  # of a conditional model: whoever knows the class finds its images likelier


def measure(
    density: Density,
    networks: Mapping[str, Network],
    images: np.ndarray,
    labels: np.ndarray | None,
    seed: int,
    device: str = "cpu",
    batch_size: int = 250,
) -> Likelihood:
    """The likelihood of held-out images.

    Args:
        networks: by role, in evaluation mode, on `device`.
        images: uint8 (n, height, width, channels), or points float32 (n, 1, 1, 2). labels: int64 (n,) for a conditional
            model, or None.

    Raises:
        ValueError: a log-likelihood is not a number, or infinite: names the first such image.
    """
    told = np.concatenate(
        [
            log_likelihoods(density, networks, images[start : start + batch_size], labels_at, seed, device, start)
            for start in range(0, len(images), batch_size)
            for labels_at in [None if labels is None else labels[start : start + batch_size]]
        ]
    )
    if not np.isfinite(told).all():
        first = int(np.flatnonzero(~np.isfinite(told))[0])
        raise ValueError(
            f"the log-likelihood of {np.count_nonzero(~np.isfinite(told))} of {len(told)} images is not finite, first "
            f"of image {first}: {told[first]}"
        )
    values = math.prod(images.shape[1:])
    nats, error = float(told.mean()), float(told.std(ddof=1) / len(told) ** 0.5)
    scale = math.log(2) * values
    of = density.of(networks) + (GIVEN_LABELS if labels is not None else "")
    how = density.how_of(ImageShape(images.shape[3], *images.shape[1:3]))
    protocol = LikelihoodProtocol(
        of, SPLIT, digest_bytes(np.ascontiguousarray(images).tobytes()), len(images), values, seed
    )
    return Likelihood(nats, error, -nats / scale, error / scale, density.exact, how, protocol)


def log_likelihoods(
    density: Density,
    networks: Mapping[str, Network],
    images: np.ndarray,
    labels: np.ndarray | None,
    seed: int,
    device: str = "cpu",
    first: int = 0,
) -> np.ndarray:
    """Of each image, nats, float64 (n,). Arguments as of `measure`; `first` is the number of the first image."""
    draw = Draw(
        seed, torch.arange(first, first + len(images)), None if labels is None else torch.from_numpy(labels).to(device)
    )
    pixels = to_network(torch.from_numpy(np.array(images)).to(device))
    return density.log_likelihood(networks, pixels, draw).double().cpu().numpy()
