"""Inception score (Salimans et al. 2016), with the draws of torch-fidelity, whose numbers these are. Its package is not
imported: that takes two seconds, in every process that judges.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genforge.evaluation.metric import Evidence, Metric

SPLITS = 10


def settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"splits": SPLITS}


def inception_score(evidence: Evidence, splits: int) -> float:
    """Mean over `splits` parts of exp(mean KL(classes of an image || classes of all images))."""
    from scipy.special import log_softmax

    assert evidence.logits is not None
    count = len(evidence.logits)
    order = np.random.RandomState(evidence.seed).permutation(count)
    logs = log_softmax(evidence.logits[order].astype(np.float64), axis=1)
    scores = []
    for part in range(splits):
        log = logs[part * count // splits : (part + 1) * count // splits]
        image = np.exp(log)
        scores.append(np.exp((image * (log - np.log(image.mean(axis=0).clip(1e-300)))).sum(axis=1).mean()))
    return float(np.mean(scores))


INCEPTION_SCORE = Metric(
    name="is",
    title="IS",
    better="higher",
    meaning="Inception score: how surely each image is of one class while all together are of many "
    "(Salimans et al. 2016)",
    compute=inception_score,
    settings=settings,
    needs="classes",
    main=True,
)
