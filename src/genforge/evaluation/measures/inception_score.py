"""Inception score (Salimans et al. 2016), by torch-fidelity."""

from __future__ import annotations

from typing import Any

from genforge.evaluation.metric import Evidence, Metric
from genforge.torchvision_cure import import_torchvision

SPLITS = 10


def settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"splits": SPLITS}


def inception_score(evidence: Evidence, splits: int) -> float:
    """Mean over `splits` parts of exp(mean KL(classes of an image || classes of all images))."""
    import_torchvision()
    import torch
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    assert evidence.logits is not None
    found = isc_features_to_metric(torch.from_numpy(evidence.logits), splits, shuffle=True, rng_seed=evidence.seed)
    return float(found[KEY_METRIC_ISC_MEAN])


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
