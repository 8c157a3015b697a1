"""Sample: the images of one recipe that the judge will see, as many for each seed as every model draws."""

from __future__ import annotations

import time

import numpy as np

from genforge.files import replacing_folder, write_array, write_json
from genforge.settings import UserError
from genforge.steps.labels import labels_of
from genforge.steps.project import Project

SHOWN = 64  # images of the grid: the first of the first seed; of a conditional model, the first of each class


def run(project: Project, name: str | None = None) -> None:
    """Write results/samples/<name>: seed-<s>.npy for each evaluation seed, grid.png, card.json; labels.npy (of every
    seed's images) when the model is conditional."""
    if name is None:
        raise UserError("step sample: name a recipe, such as `genforge step sample gan`")
    from genforge.catalog import target
    from genforge.data.loading import Prepared
    from genforge.models import load
    from genforge.pictures import enough, save_png, sheet
    from genforge.progress import Bar

    settings = project.config.evaluation
    model = load(project.model(name), target, project.device)
    prepared = Prepared.open(project.prepared)
    labels = labels_of(model.classes, prepared, settings.images)

    seconds = 0.0
    with (
        replacing_folder(project.samples(name)) as folder,
        Bar(f"sampling {name}", settings.images * len(settings.seeds), "images") as bar,
    ):
        for seed in settings.seeds:
            parts: list[np.ndarray] = []
            began = time.perf_counter()
            try:
                for part in model.batches(seed, settings.images, labels=labels, batch_size=settings.batch_size):
                    parts.append(part)
                    bar.advance(len(part))
            except ValueError as error:
                raise UserError(f"{name}, seed {seed}: {error}; look at the sampler's settings") from error
            seconds += time.perf_counter() - began
            images = np.concatenate(parts)
            write_array(folder / f"seed-{seed}.npy", images)
            if seed == settings.seeds[0]:
                shown = images if labels is not None else images[: enough(model.shape.stored, SHOWN)]
                classes = None if labels is None else labels.numpy()
                save_png(folder / "grid.png", sheet(shown, real=prepared.images("test"), labels=classes))
        if labels is not None:
            write_array(folder / "labels.npy", labels.numpy())
        count = settings.images * len(settings.seeds)
        card = {"images": settings.images, "seeds": list(settings.seeds), "seconds": seconds}
        write_json(folder / "card.json", {**card, "images_per_second": count / seconds})
