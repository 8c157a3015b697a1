"""What each number means, and which way is better. Directions are stated here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genforge.settings import UserError, nearest


@dataclass(frozen=True)
class Metric:
    """One number about a set of generated images.

    better: which of two values is the better one. needs_logits: whether it needs an extractor that names classes.
    decimals: how many a person is shown.
    """

    name: str
    title: str
    better: Literal["lower", "higher"]
    meaning: str
    needs_logits: bool = False
    decimals: int = 3

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
        return f"{value:.{self.decimals}f}"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="fid",
            title="FID",
            better="lower",
            meaning="Frechet distance of two Gaussians fitted to the features of generated and of real images "
            "(Heusel et al. 2017)",
            decimals=2,
        ),
        Metric(
            name="kid",
            title="KID",
            better="lower",
            meaning="squared maximum mean discrepancy of the features under a cubic kernel; without bias, so a little "
            "below 0 is possible (Binkowski et al. 2018)",
            decimals=4,
        ),
        Metric(
            name="is",
            title="IS",
            better="higher",
            meaning="Inception score: how surely each image is of one class while all together are of many "
            "(Salimans et al. 2016)",
            needs_logits=True,
        ),
        Metric(
            name="precision",
            title="Precision",
            better="higher",
            meaning="share of the generated images in the real ones' neighbourhoods (Kynkaanniemi et al. 2019)",
        ),
        Metric(
            name="recall",
            title="Recall",
            better="higher",
            meaning="share of the real images in the generated ones' neighbourhoods (Kynkaanniemi et al. 2019)",
        ),
    )
}


def metric(name: str, where: str = "metric") -> Metric:
    """Raises UserError with the nearest name when there is no such metric."""
    if name not in METRICS:
        raise UserError(f"{where}: no metric is called {name!r}; {nearest(name, list(METRICS))}")
    return METRICS[name]
