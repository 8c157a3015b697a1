"""Make the eyes of the judge, and let them look at the training split once.

The classifier learns the data's labels, or rotations where there are no two classes. It is trained by the same loop as
every model, kept as they are (`kept.py`), and checked on the validation split. Points are their own features: of them
only where their modes lie is written down.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genforge.files import replacing_folder, telling_of_no_room
from genforge.imports import code_digest
from genforge.progress import say
from genforge.randomness import derive, seed_everything
from genforge.settings import UserError
from genforge.steps.kept import EXTRACTOR, checkpoints_of, forget_others
from genforge.steps.project import Project

if TYPE_CHECKING:
    from genforge.data.loading import Prepared
    from genforge.objectives.classification import Classification, Task
    from genforge.training.settings import TrainingSettings


def run(project: Project, name: str | None = None) -> None:
    """Write results/extractor: weights, card, and the reference's features and moments."""
    from genforge.data.loading import Prepared
    from genforge.evaluation.extractor import load_extractor
    from genforge.evaluation.reference import write_reference
    from genforge.training.termination import Termination

    prepared = Prepared.open(project.prepared)
    with (
        telling_of_no_room("the extractor", project.extractor),
        Termination() as termination,
        termination.at_once(),  # but for the classifier's steps, between which the loop hears of it
        replacing_folder(project.extractor) as folder,
    ):
        if project.config.extractor.name == "classifier":
            _train_classifier(project, prepared, folder)
        elif project.config.extractor.name == "coordinates":
            _fit_coordinates(project, prepared, folder)
        else:
            _keep_published(project, prepared, folder)
        extractor = load_extractor(folder, project.device)
        write_reference(folder, extractor, prepared.images("train"), project.config.evaluation.batch_size)


def _train_classifier(project: Project, prepared: Prepared, folder: Path) -> None:
    from genforge.data.loading import DeviceData
    from genforge.evaluation.extractor import write_classifier
    from genforge.networks.classifier import Classifier
    from genforge.objectives.classification import ROLE, Classification, ClassificationSettings
    from genforge.tracking import runs as tracking
    from genforge.training.loop import train

    settings = project.config.extractor
    task: Task = "labels" if len(prepared.classes) >= 2 else "rotations"
    seed = derive(project.config.seed, "extractor")
    seed_everything(seed)

    learning = ClassificationSettings(task=task)
    port = Classification.ports(learning, prepared.shape, len(prepared.classes))[ROLE]
    network = Classifier(Classifier.settings_type.read({"width": settings.width}, "extractor"), port)
    objective = Classification(learning, {ROLE: network})
    data = DeviceData(prepared, split="train", device=project.device, seed=seed)
    training = classifier_training(settings.steps, settings.batch_size)
    inputs = {
        "extractor": settings.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "code": code_digest(
            [Classification.__module__, Classifier.__module__, DeviceData.__module__, train.__module__]
        ),
        "task": task,
        "data": prepared.digest,
        "seed": seed,
    }
    checkpoints = checkpoints_of(project, EXTRACTOR, inputs)
    with tracking.run(project.root, kind="extractor", name=task, parameters=settings.model_dump()) as record:
        train(
            objective,
            data,
            training,
            device=project.device,
            seed=seed,
            log=record.metrics,
            checkpoints=checkpoints,
            title="extractor",
        )
        accuracy = validation_accuracy(objective, prepared, project.device, derive(seed, "validation"))
        record.metrics(settings.steps, {"validation_accuracy": accuracy})
    say(f"extractor: tells {task} apart in {accuracy:.1%} of the validation images")
    about = {"validation_accuracy": accuracy, "settings": settings.model_dump(), **_about(project, prepared)}
    write_classifier(folder, network, names_classes=task == "labels", about=about)
    forget_others(checkpoints)


def classifier_training(steps: int, batch_size: int) -> TrainingSettings:
    """How a classifier is trained, here and wherever one is asked what images are worth."""
    from genforge.training.settings import TrainingSettings

    return TrainingSettings.read(
        {
            "steps": steps,
            "batch_size": batch_size,
            "optimizer": {"name": "adamw", "learning_rate": 4e-3, "betas": (0.9, 0.99), "weight_decay": 0.01},
            "warmup_steps": steps // 10,
            "schedule": "cosine",
            "ema": 0.99,
            "precision": "float32",
            "channels_last": True,
        },
        "extractor",
    )


def validation_accuracy(objective: Classification, prepared: Prepared, device: str, seed: int) -> float:
    """Share of the validation images that are named rightly; rotations are drawn by the seed."""
    import numpy as np
    import torch

    from genforge.contracts import Batch, to_network

    images, labels = prepared.images("validation"), prepared.labels("validation")
    seed_everything(seed)
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), 1000):
            part = slice(start, start + 1000)
            batch = Batch(
                to_network(torch.from_numpy(np.array(images[part])).to(device)),
                None if labels is None else torch.from_numpy(np.array(labels[part])).to(device),
            )
            seen, answers = objective.question(batch)
            right += int((objective.exported(seen).argmax(dim=1) == answers).sum())
    return right / len(images)


def _fit_coordinates(project: Project, prepared: Prepared, folder: Path) -> None:
    from genforge.evaluation.coordinates import CoordinatesExtractor, fit_modes
    from genforge.evaluation.extractor import write_card, write_weights

    modes = fit_modes(prepared.images("train"), prepared.labels("train"), len(prepared.classes))
    extractor = CoordinatesExtractor(modes, write_weights(folder, modes), "cpu")
    about: dict[str, Any] = {"settings": project.config.extractor.model_dump(), **_about(project, prepared)}
    write_card(folder, extractor, {"kind": "points", "validation_accuracy": None, **about})


def _keep_published(project: Project, prepared: Prepared, folder: Path) -> None:
    from genforge.evaluation.extractor import published, write_card, write_weights

    settings = project.config.extractor
    kind = published(settings.name)
    weights = kind.read(None if settings.weights is None else project.root / settings.weights)
    extractor = kind.make(weights, write_weights(folder, weights), "cpu")
    about: dict[str, Any] = {"settings": settings.model_dump(), **_about(project, prepared)}
    write_card(folder, extractor, {"kind": "published", "validation_accuracy": None, **about})


def _about(project: Project, prepared: Prepared) -> dict[str, Any]:
    if prepared.count("validation") == 0:
        raise UserError("the validation split is empty, so nothing can be checked on it; raise data.validation")
    return {
        "precision": project.config.extractor.precision,
        "data": prepared.digest,
        "image": vars(prepared.shape),
        "classes": list(prepared.classes),
        "reference": {"split": "train", "images": prepared.count("train")},
    }
