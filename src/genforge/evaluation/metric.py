"""What a metric is: a pure function of what the extractor saw, its settings, and what is said of its number.

A metric takes one file in `measures/` and one line in `metrics.py`. Its settings are the keyword arguments of its
function, and they stand in the protocol: a number is computed from the very protocol that is shown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from genforge.contracts import Network

T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """What metrics of images are computed from.

    generated: features float32 (n, dimensions). logits: float32 (n, classes), or None where no classes are named.
    reference: features of the real images, float32 (m, dimensions).
    prepared: what was computed of the reference once, by name (see `Metric.prepare`).
    seed: of the metrics' own draws.
    """

    generated: np.ndarray
    logits: np.ndarray | None
    reference: np.ndarray
    prepared: Mapping[str, np.ndarray]
    seed: int
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def shared(self, compute: Callable[[Evidence], T]) -> T:
        """`compute` of this evidence, computed once for all the metrics that ask for it."""
        if compute not in self._shared:
            self._shared[compute] = compute(self)
        return self._shared[compute]


@dataclass(frozen=True)
class LatentEvidence:
    """What metrics of a latent space are computed from.

    network: latents (n, latent_size), labels (n,) or None to images in [-1, 1].
    features: images float (n, channels, height, width) in [-1, 1], not rounded to whole levels, to (n, dimensions).
    labels: int64, one for each way through the latent space; None where the network takes none.
    device: where network and features are computed. seed: of the latents.
    """

    network: Network
    features: Callable[[Tensor], Tensor]
    labels: Tensor | None
    device: str
    seed: int


def no_settings(images: int, reference_images: int) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Metric:
    """One number about a set of generated images, or about the latent space that they were drawn from.

    better: which of two values is the better one.
    compute: evidence and the settings as keywords to the number. Of `Evidence`, or of `LatentEvidence` where it needs a
        latent.
    settings: of a number of generated and of real images.
    prepare: what it wants to know of the real images, computed once a data set: features (m, dimensions) and a seed to
        arrays, under names that begin with the name of its file.
    needs: images alone, an extractor that names classes, one that knows the data's modes, or a model with a latent.
    decimals: how many a person is shown. main: whether it stands in short tables.
    """

    name: str
    title: str
    better: Literal["lower", "higher"]
    meaning: str
    compute: Callable[..., float]
    settings: Callable[[int, int], dict[str, Any]] = no_settings
    prepare: Callable[[np.ndarray, int], dict[str, np.ndarray]] | None = None
    needs: Literal["images", "classes", "modes", "latent"] = "images"
    decimals: int = 3
    main: bool = False

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The direction in the words of an optimizer."""
        return "minimize" if self.better == "lower" else "maximize"

    @property
    def arrow(self) -> str:
        return "↓" if self.better == "lower" else "↑"

    def key(self, value: float) -> float:
        """What to sort values by so that the best comes first."""
        return value if self.better == "lower" else -value

    def is_better(self, value: float, than: float) -> bool:
        return self.key(value) < self.key(than)

    def show(self, value: float) -> str:
        """With `decimals`; what these would leave nothing of, as of distances between points, with two digits."""
        small = 0.0 < abs(value) < 0.5 * 10.0**-self.decimals
        return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}" if small else f"{value:.{self.decimals}f}"
