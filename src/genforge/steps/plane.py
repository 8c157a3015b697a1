"""What a model of points of the plane holds likely, as a picture: everywhere, and not only where it draws."""

from __future__ import annotations

import numpy as np

from genforge import scatter
from genforge.data.loading import Prepared
from genforge.evaluation.log_likelihood import log_likelihoods
from genforge.models import Model
from genforge.pictures import POINTS_TO_SEE
from genforge.samplers.drawing import device_of
from genforge.steps.labels import label_counts

SIDE, AT_ONCE = 160, 1600  # places across the picture; places that are told of together
SEED = 0  # of a density's own noise


def density_picture(model: Model, prepared: Prepared) -> np.ndarray:
    """Real points beside the log-density that the model tells, uint8 (height, width, 3). Its title says which share of
    all lies in view: close to 1 for a density that is right. Of a conditional model every label in its proportion."""
    counts = np.array(label_counts(model.classes, prepared) or [1])
    told = [
        np.log(share) + _log_density(model, label if model.classes else None)
        for label, share in enumerate(counts / counts.sum())
        if share
    ]
    assert model.density is not None
    panel, title = scatter.log_density(np.logaddexp.reduce(told, axis=0), model.density.normalised)
    real = scatter.scatter(prepared.images("train")[:POINTS_TO_SEE])
    return scatter.row([real, panel], ["real", title])


def _log_density(model: Model, label: int | None) -> np.ndarray:
    """At all places, float64 (SIDE * SIDE,)."""
    assert model.density is not None
    places, device = scatter.places(SIDE)[:, None, None, :], str(device_of(model.network))
    labels = None if label is None else np.full(AT_ONCE, label)
    parts = [
        log_likelihoods(model.density, model.networks, places[start : start + AT_ONCE], labels, SEED, device, start)
        for start in range(0, len(places), AT_ONCE)
    ]
    return np.concatenate(parts)
