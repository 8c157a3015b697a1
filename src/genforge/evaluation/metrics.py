"""Every metric by its name: what each number means, and which way is better, is said in its file and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable

from genforge.evaluation.measures.classes import CLASSES
from genforge.evaluation.measures.diversity import FEATURE_DIVERSITY
from genforge.evaluation.measures.duplicates import DUPLICATES
from genforge.evaluation.measures.frechet import FID
from genforge.evaluation.measures.inception_score import INCEPTION_SCORE
from genforge.evaluation.measures.kernel import KID
from genforge.evaluation.measures.modes import MODES
from genforge.evaluation.measures.monge import MIND
from genforge.evaluation.measures.neighbours import COVERAGE, DENSITY, PRECISION, RECALL
from genforge.evaluation.measures.path_length import PATH_LENGTH
from genforge.evaluation.metric import Metric
from genforge.settings import UserError, nearest

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        FID,
        KID,
        INCEPTION_SCORE,
        PRECISION,
        RECALL,
        DENSITY,
        COVERAGE,
        MIND,
        CLASSES,
        MODES,
        DUPLICATES,
        FEATURE_DIVERSITY,
        PATH_LENGTH,
    )
}


def metric(name: str, where: str = "metric") -> Metric:
    """Raises UserError with the nearest name when there is no such metric."""
    if name not in METRICS:
        raise UserError(f"{where}: no metric is called {name!r}; {nearest(name, list(METRICS))}")
    return METRICS[name]


def check_metrics(names: Iterable[str], where: str) -> list[str]:
    """The names, each once, in the order in which they were given.

    Raises:
        UserError: there is none, or one is unknown.
    """
    known = list(dict.fromkeys(metric(name, where).name for name in names))
    if not known:
        raise UserError(f"{where}: the list is empty; name metrics ({', '.join(METRICS)}), or leave it out for all")
    return known
