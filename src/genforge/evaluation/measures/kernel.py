"""Kernel inception distance (Binkowski et al. 2018), by torch-fidelity."""

from __future__ import annotations

from typing import Any

from genforge.evaluation.metric import Evidence, Metric
from genforge.torchvision_cure import import_torchvision

SUBSETS, SUBSET_SIZE = 100, 1000


def settings(images: int, reference_images: int) -> dict[str, Any]:
    return {"subsets": SUBSETS, "subset_size": min(SUBSET_SIZE, images, reference_images)}


def kid(evidence: Evidence, subsets: int, subset_size: int) -> float:
    """Mean over `subsets` random subsets of `subset_size` images each."""
    import_torchvision()
    import torch
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    found = kid_features_to_metric(
        torch.from_numpy(evidence.generated),
        torch.from_numpy(evidence.reference),
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=evidence.seed,
        verbose=False,
    )
    return float(found[KEY_METRIC_KID_MEAN])


KID = Metric(
    name="kid",
    title="KID",
    better="lower",
    meaning="squared maximum mean discrepancy of the features under a cubic kernel; without bias, so a little "
    "below 0 is possible (Binkowski et al. 2018)",
    compute=kid,
    settings=settings,
    decimals=4,
    main=True,
)
