"""One trial of a search: train shortly with other settings, and let the judge look now and then.

`open_trials` is called once in every worker process; the data and the judge that it opens serve all of its trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genforge import catalog
from genforge.data.loading import DeviceData, Prepared
from genforge.evaluation.fidelity import Judge
from genforge.models import Model
from genforge.pictures import enough, sheet
from genforge.randomness import seed_everything
from genforge.search.plan import Lost, Pruned
from genforge.search.tickets import Trial
from genforge.steps.labels import labels_of
from genforge.steps.project import Project
from genforge.tracking import runs as tracking
from genforge.training.checkpoint import Checkpoints
from genforge.training.loop import TrainingSettings, train

IMAGES, IMAGES_OF_MANY_PASSES = 1000, 200  # that a value is of, where params.yaml does not say
SHOWN = 64  # images of a trial's grid in the tracker


def images_of(project: Project, recipe: catalog.Recipe) -> int:
    """How many generated images a value is of."""
    if project.config.search.images is not None:
        return project.config.search.images
    return IMAGES if catalog.build_sampler(recipe.sampler).one_pass else IMAGES_OF_MANY_PASSES


def looks_of(steps: int, reports: int) -> list[int]:
    """The steps after which a trial is judged: evenly spread, but for the first, when a network is too young to tell
    good settings from the best."""
    return [-(-steps * number // reports) for number in range(min(2, reports), reports + 1)]


def protocol_of(project: Project, recipe: catalog.Recipe) -> str:
    """The short name of the protocol that trials are judged by."""
    return Judge.open(project.extractor, project.prepared).protocol(images_of(project, recipe)).name


def open_trials(arguments: Mapping[str, Any]) -> Callable[[Trial], float]:
    """The objective of a recipe's search.

    Args:
        arguments: root, recipe, metric, steps (of a trial), reports, seed (of the training,
            the same for every trial, so that settings are compared and not luck), parent (id of the search's run in
            the tracker).
    """
    root, name = Path(arguments["root"]), str(arguments["recipe"])
    steps, reports = int(arguments["steps"]), int(arguments["reports"])
    seed, metric = int(arguments["seed"]), str(arguments["metric"])

    project = Project.load(root)
    project.use_threads()
    device = project.device  # each worker holds a GPU of its own
    recipe = project.recipe(name)
    images_each = images_of(project, recipe)
    prepared = Prepared.open(project.prepared)
    # One data set for all trials: a batch is a function of its number, so trials do not disturb each other.
    data = DeviceData(prepared, "train", device, seed=seed, horizontal_flip=project.config.data.horizontal_flip)
    judge = Judge.open(project.extractor, project.prepared, device)
    protocol = judge.protocol(images_each).name
    if search := tracking.going_on(root, arguments["parent"]):
        search.tags({"protocol": protocol})  # by whoever knows it first: the supervisor has no judge before the end

    def run_trial(trial: Trial) -> float:
        whole = catalog.with_settings(recipe, trial.settings, f"recipes.{name}.search")
        short = {**whole.shortened(steps), "training.checkpoint_every": max(1, steps // reports)}
        changed = catalog.with_settings(whole, {**short, **catalog.OF_EVERY_TRIAL}, f"recipes.{name}.search")
        seed_everything(seed)
        objective = catalog.build_objective(changed, prepared.shape, len(prepared.classes))
        model = Model(objective.exported, catalog.build_sampler(changed.sampler), {})
        labels = labels_of(model.classes, prepared, images_each)
        last = float("nan")

        def observe(step: int, network: object) -> None:
            nonlocal last
            images = model.draw(seed, images_each, labels=labels)
            last = judge.score(images, [metric])[metric]
            record.metrics(step, {metric: last})
            record.image("samples", step, sheet(images[: enough(model.shape.stored, SHOWN)]))
            trial.report(step, last, ended=step == steps)

        with tracking.run(
            root,
            kind="trial",
            name=f"{name}-{trial.number}",
            parameters=trial.settings,
            tags={"recipe": name, "trial": trial.number, "protocol": protocol},
            parent=arguments["parent"],
        ) as record:
            try:
                train(
                    objective,
                    data,
                    TrainingSettings.read(changed.training, f"recipes.{name}.training"),
                    device=device,
                    seed=seed,
                    log=record.metrics,
                    checkpoints=Checkpoints(trial.folder, identity={"recipe": name, "settings": trial.settings}),
                    observe=observe,
                    observations=looks_of(steps, reports),
                    title=f"trial {trial.number} of {name}",
                )
            except Pruned:
                record.finish("pruned")
                raise
            except Lost as loss:
                record.finish("lost", "KILLED", str(loss))
                raise
        return last

    return run_trial
