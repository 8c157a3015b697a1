"""Train: one recipe, with the settings that the search found, to a folder that draws images.

A run that was killed goes on where it was (`kept.py`). Its pictures are drawn with the sampler of the day: those that
were made on the way, for the filmstrip, with the one that the recipe named then.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genforge.catalog import Recipe, beside, exported, with_settings
from genforge.files import read_json, replacing, replacing_folder, telling_of_no_room, write_json
from genforge.imports import code_digest
from genforge.progress import say
from genforge.randomness import derive, seed_everything
from genforge.settings import UserError
from genforge.steps.kept import checkpoints_of, forget_others
from genforge.steps.labels import label_counts, labels_of, labels_to_see
from genforge.steps.project import Project
from genforge.steps.together import peers
from genforge.trained_folder import digest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from genforge.data.loading import Prepared
    from genforge.models import Model
    from genforge.training.history import History
    from genforge.training.loop import Trained

OBSERVATIONS = 5  # looks at the model while it trains, evenly spread: the rows of the filmstrip
FILM_COLUMNS = 8  # images in each: always of the same noise
WAYS, MOMENTS = 4, 10  # images whose way from noise is shown, and how many moments of it
GRID = 64  # images of samples.png
AVERAGES = "averages"  # in the model's folder: what `genforge ema` chooses from
STRIPS = 2  # of an interpolation between latents, and as many between seeds
SEED_TO_SEE = 0  # of the pictures


def run(project: Project, name: str | None = None) -> None:
    """Write results/models/<name>: weights, model.json, curves.csv, samples.png, filmstrip.png, and whatever else there
    is to be seen of this kind of model (`more_pictures`). Curves for DVC too."""
    if name is None:
        raise UserError("step train: name a recipe, such as `genforge step train gan`")
    from genforge.catalog import build_density, build_objective, build_sampler
    from genforge.data.loading import DeviceData, Prepared
    from genforge.models import Model
    from genforge.pictures import enough, sheet
    from genforge.tracking import runs as tracking
    from genforge.training.loop import train
    from genforge.training.settings import TrainingSettings
    from genforge.training.termination import Termination

    # The recipe, as params.yaml states it and with what the search found.
    recipe = best_recipe(project, name)
    settings = TrainingSettings.read(recipe.training, f"recipes.{name}.training")
    prepared = Prepared.open(project.prepared)
    seed = derive(project.config.seed, "train", name)
    flip = project.config.data.horizontal_flip

    # Everything that the weights depend on says where the run is kept. The sampler does not: with another one the
    # finished run is finished again, in seconds, and only its pictures are drawn anew.
    # Nor does the length of the average that is chosen at the end.
    trained_by = recipe.model_dump(mode="json", include={"networks", "objective", "training"})
    trained_by["training"]["averages"].pop("choose")
    inputs = {
        "recipe": trained_by,
        "code": code_digest([*recipe.training_modules(), "genforge.data.loading"]),
        "data": prepared.digest,
        "flip": flip,
        "seed": seed,
    }
    checkpoints = checkpoints_of(project, name, inputs)

    with peers(project, name) as met:
        # Data to the device; networks with weights that hang on the seed alone.
        data = DeviceData(prepared, "train", project.device, seed=seed, horizontal_flip=flip)
        seed_everything(seed)
        objective = build_objective(recipe, prepared.shape, len(prepared.classes))
        companions = {role: objective.networks[role] for role in objective.companions()}
        card: dict[str, Any] = {"role": objective.exported_role()}
        density = None if recipe.density is None else build_density(recipe.density)
        model = Model(objective.exported, build_sampler(recipe.sampler), card, companions, density)
        learn = functools.partial(
            train,
            objective,
            data,
            settings,
            device=project.device,
            seed=seed,
            checkpoints=checkpoints,
            observe=lambda step, network: pictures_of(
                model, prepared, enough(prepared.shape.stored, FILM_COLUMNS), f"{name} at step {step}"
            ),
            observations=OBSERVATIONS,
            held_out=DeviceData(prepared, "validation", project.device, seed) if prepared.count("validation") else None,
            title=f"training {name}",
            peers=met,
        )
        if not met.is_first:  # the first tells and writes what comes of it
            learn()
            return

        parameters = recipe.model_dump(mode="json", include={"networks", "objective", "sampler", "training"})
        tags = {"family": recipe.family, "origin": recipe.origin, "inputs": checkpoints.folder.name}
        with (
            telling_of_no_room(f"what training {name} leaves behind", project.model(name)),
            Termination() as termination,
            tracking.run(project.root, kind="train", name=name, parameters=parameters, tags=tags) as record,
            termination.at_once(),  # but for the steps, between which the loop hears of it
        ):
            trained = learn(
                log=record.metrics,
                show=lambda step, images: record.image("samples", step, sheet(images, FILM_COLUMNS)),
            )
            card = {**about(recipe, prepared, trained), "name": name, "seed": project.config.seed}
            card["code"] = read_json(project.recipe_file(name))["code"]
            card["data"] = {"name": project.config.data.name, "digest": prepared.digest}
            model.card = card
            more = more_pictures(model, prepared)
            with replacing_folder(project.model(name)) as result:
                samples = samples_of(model, prepared, name)
                write(result, model, card, trained.history, samples, more)
                if settings.averages.snapshots and checkpoints.averages.is_dir():
                    shutil.copytree(checkpoints.averages, result / AVERAGES)
                trained.history.write_csv(project.curves(name))
            record.artifact(project.model(name), "model")
            for key, picture in {"classes": samples, **more}.items() if model.classes else more.items():
                record.image(key, trained.steps, picture)
            record.tags({"weights": digest(project.model(name)), "rollbacks": len(trained.rollbacks)})
            record.metrics(trained.steps, {"seconds": trained.seconds})
        forget_others(checkpoints)


def best_recipe(project: Project, name: str) -> Recipe:
    """The resolved recipe with the best settings of its search laid over it, where there was one."""
    recipe = project.recipe(name)
    found = project.search(name) / "best.json"
    settings = read_json(found)["settings"] if found.is_file() else {}
    if not settings:
        return recipe
    say(f"training {name} with what the search found: {json.dumps(settings)}")
    return with_settings(recipe, settings, str(found))


def samples_of(model: Model, prepared: Prepared, title: str) -> np.ndarray:
    """What the model draws as one picture, of a conditional model with a row a class."""
    from genforge.pictures import enough, sheet

    labels = None if prepared.shape.is_point else labels_to_see(model.classes)
    if labels is None:
        drawn = pictures_of(model, prepared, enough(prepared.shape.stored, GRID), title)
        return sheet(drawn, real=prepared.images("validation"))
    return sheet(pictures_of(model, prepared, len(labels), title, labels), labels=labels.numpy())


def pictures_of(model: Model, prepared: Prepared, count: int, title: str, labels: Tensor | None = None) -> np.ndarray:
    """The first `count` images that people are shown: always of the same noise and labels, which are in the data's
    proportion unless they are given."""
    labels = labels_of(model.classes, prepared, count) if labels is None else labels
    try:
        return model.draw(SEED_TO_SEE, count, labels=labels)
    except ValueError as error:
        raise UserError(f"{title}: {error}; the network is finite, so look at the sampler's settings") from error


def more_pictures(model: Model, prepared: Prepared) -> dict[str, np.ndarray]:
    """What else there is to be seen of this kind of model, by name: ways through its latent space, where it has an
    encoder; the way from noise to images, or from one image to another. Of points what the model holds likely."""
    if prepared.shape.is_point:
        from genforge.steps.plane import density_picture

        return {} if model.density is None else {"density": density_picture(model, prepared)}
    from genforge.pictures import grid, strip
    from genforge.steps.latent import strips_of

    latent = strips_of(model.networks, prepared)
    pictures = {f"latent-{key}": grid(found.images, found.columns) for key, found in latent.items()}
    ways = model.trajectory(SEED_TO_SEE, WAYS, MOMENTS, labels_of(model.classes, prepared, WAYS))
    if ways is not None:
        pictures["trajectory"] = strip(ways)
    if (strips := interpolation_of(model)) is not None:
        pictures["interpolation"] = strips
    return pictures


def interpolation_of(model: Model) -> np.ndarray | None:
    """Strips on the way from one latent to the next, and from one seed to another; None for what has no latents, and
    for points, which are no pictures."""
    import numpy as np

    from genforge.contracts import WithLatents
    from genforge.pictures import grid

    if not isinstance(model.sampler, WithLatents) or model.shape.is_point:
        return None
    latents = model.between(SEED_TO_SEE, STRIPS, FILM_COLUMNS)
    seeds = model.between(SEED_TO_SEE, STRIPS, FILM_COLUMNS, other_seed=SEED_TO_SEE + 1)
    strips = np.concatenate([latents, seeds])
    return grid(strips.reshape(-1, *strips.shape[2:]), FILM_COLUMNS)


def about(recipe: Recipe, prepared: Prepared, trained: Trained) -> dict[str, Any]:
    """What model.json says of the training and of how the network is built again."""
    network = trained.network
    fitted = [buffer for buffer in network.buffers() if buffer.is_floating_point()]  # what a baseline has learned
    learned: list[Any] = list(network.parameters()) or fitted
    return {
        "family": recipe.family,
        "origin": recipe.origin,
        "exported": exported(recipe, prepared.shape, len(prepared.classes)).to_json(),
        **beside(recipe, prepared.shape, len(prepared.classes)),
        "recipe": recipe.model_dump(mode="json"),
        "classes": list(prepared.classes),
        "label_counts": label_counts(network.port.classes, prepared),
        "steps": trained.steps,
        "images_seen": trained.images_seen,
        "seconds": trained.seconds,
        "images_per_second": trained.images_per_second,
        "rollbacks": [rollback.to_json() for rollback in trained.rollbacks],
        "environments": trained.environments,
        "parameters": sum(tensor.numel() for tensor in learned),
    }


def write(
    folder: Path,
    model: Model,
    card: dict[str, Any],
    history: History,
    samples: np.ndarray,
    more: Mapping[str, np.ndarray],
) -> None:
    """Fill the model's folder. samples: the picture of what the model draws. more: other pictures, by their names."""
    from genforge.models import COMPANIONS, weights_of_companions
    from genforge.pictures import film, save_png
    from genforge.training.checkpoint import serialise

    with replacing(folder / "weights.safetensors") as file:
        file.write(serialise(model.network.state_dict()))
    if model.companions:
        with replacing(folder / COMPANIONS) as file:
            file.write(serialise(weights_of_companions(model.companions)))
    write_json(folder / "model.json", card)
    history.write_csv(folder / "curves.csv")
    save_png(folder / "samples.png", samples)
    looks = [(f"step {step}", drawn) for step, drawn in sorted(history.images.items())]
    save_png(folder / "filmstrip.png", film(looks, FILM_COLUMNS))
    for key, picture in more.items():
        save_png(folder / f"{key}.png", picture)
