"""Points of the plane need no extractor: their coordinates are the features.

So FID is the Frechet distance of two Gaussians in the plane, and precision, recall and coverage are of neighbourhoods
in the plane. Where the data label their modes (a Gaussian of the ring, a cell of the checkerboard), each mode is
described by the mean and the covariance of its training points, and the logits of a point are -d^2 / 2 for every mode,
d being its distance from that mode's mean in the mode's own standard deviations (Mahalanobis): the logarithms of the
modes' Gaussians, but for what they are at their tops.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from genforge.contracts import to_network
from genforge.evaluation.extractor import Extractor

MEANS, ROOTS = "means", "roots"  # (modes, 2), and (modes, 2, 2): lower Cholesky factors of the inverse covariances
CLEAR = 50.0  # below the greatest logit: further behind is no likelier to matter, and its exponential would be zero
FLOOR = 1e-6  # added to variances, for a mode whose points are all the same
NO_MODES = "these points have no parts that could be counted; IS, classes and modes need some, as the ring has"


class CoordinatesExtractor(Extractor):
    """Points to themselves. `modes` are what `fit_modes` gave."""

    name = "coordinates"
    feature_layer = "coordinates"
    resizing = "none: points are taken as they are"
    dimensions = 2
    cheap, at_once = True, 10_000

    def __init__(self, modes: Mapping[str, Tensor], digest: str, device: str = "cpu") -> None:
        self.digest, self.device = digest, device
        self.means, self.roots = modes[MEANS].to(device), modes[ROOTS].to(device)
        self.has_modes = len(self.means) > 0
        self.logits_layer = "modes" if self.has_modes else None
        self.why_no_logits = "" if self.has_modes else NO_MODES

    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        points = to_network(images).flatten(1)
        if not self.has_modes:
            return points, None
        apart = points[:, None, :] - self.means  # (n, modes, 2)
        scaled = torch.einsum("nmi,mij->nmj", apart, self.roots)
        logits = -scaled.square().sum(dim=2) / 2
        return points, logits.clamp(min=logits.amax(dim=1, keepdim=True) - CLEAR)

    def look_between(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def fit_modes(points: np.ndarray, labels: np.ndarray | None, modes: int) -> dict[str, Tensor]:
    """Mean and root of the inverse covariance of each mode, by maximum likelihood; none without labels.

    Args:
        points: float32 (n, 1, 1, 2). labels: int64 (n,), 0 to modes - 1, or None.
    """
    means, roots = np.zeros((modes, 2)), np.zeros((modes, 2, 2))
    for mode in range(modes):
        own = points[labels == mode].reshape(-1, 2).astype(np.float64)
        means[mode] = own.mean(axis=0)
        centred = own - means[mode]
        roots[mode] = np.linalg.cholesky(np.linalg.inv(centred.T @ centred / len(own) + FLOOR * np.eye(2)))
    return {MEANS: torch.from_numpy(means).float(), ROOTS: torch.from_numpy(roots).float()}
