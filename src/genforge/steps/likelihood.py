"""How likely one recipe's model finds held-out images: a part of `evaluate`, for recipes that name a density."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genforge.progress import say
from genforge.randomness import derive
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from genforge.data.loading import Prepared
    from genforge.evaluation.likelihood import Likelihood
    from genforge.models import Model


def likelihood_of(project: Project, name: str, model: Model) -> Likelihood | None:
    """Of the held-out images that `evaluation.likelihood_images` allows, under a model that was loaded with its
    companions; None where its recipe names no density.

    Raises:
        UserError: some image's likelihood is not finite.
    """
    if model.density is None:
        say(f"{name}: no likelihood, since its recipe names no density")
        return None
    if not model.density.normalised:
        say(f"{name}: no likelihood, since of its density a constant is not known ({model.density.how})")
        return None
    from genforge.data.loading import Prepared
    from genforge.evaluation.log_likelihood import measure

    settings, prepared = project.config.evaluation, Prepared.open(project.prepared)
    images, labels = held_out(prepared, settings.likelihood_images)
    seed = derive(0, "likelihood")  # the same for every project, so that the same model is told the same number
    try:
        found = measure(
            model.density,
            model.networks,
            images,
            labels if model.classes else None,
            seed,
            project.device,
            settings.batch_size,
        )
    except ValueError as error:
        raise UserError(f"{name}: {error}; look at the settings of its density") from error
    say(f"{name}: {found.in_bits()} bits per dimension, {found.nats:.2f} nats an image ({found.how})")
    return found


def held_out(prepared: Prepared, limit: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Images of the test split as they are stored (n, height, width, channels), and their labels, int64 (n,), or None:
    all of them in their order, or `limit` of them that are always the same."""
    count = prepared.count("test")
    chosen = np.arange(count)
    if limit is not None and limit < count:
        chosen = np.sort(np.random.default_rng(0).permutation(count)[:limit])
    labels = prepared.labels("test")
    return np.asarray(prepared.images("test"))[chosen], None if labels is None else labels[chosen]
