"""A labelled set of drawn images, and what it is worth: behind `genforge augment`.

What it is worth is the accuracy that a classifier reaches on held-out real images when it learns from the drawn ones
alone (the classification accuracy score of Ravuri & Vinyals 2019, "Classification accuracy score for conditional
generative models"), from real ones alone, and from both. It learns for as many steps each time, so that more images are
not more training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.files import check_new_folder, replacing_folder, write_array
from genforge.progress import Bar, say
from genforge.randomness import derive, seed_everything
from genforge.settings import UserError
from genforge.steps.named_model import named_model
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.console import Group

    from genforge.data.loading import Prepared

TOGETHER = 250  # images that are drawn at once
REAL, DRAWN, BOTH = "real", "synthetic", "both"


def augment(
    project: Project, model: str, out: Path, count: int, seed: int = 0, measure: bool = False, repeats: int = 3
) -> dict[str, Any]:
    """Write `count` images of a conditional model to `out`, a folder a class and a PNG an image.

    Each says where it came from in its text. Its pixels are as they were drawn, without a watermark: who learns from
    them must not learn that.

    Args:
        model: a recipe of params.yaml, a trained folder, or a registered model.
        out: a folder that is new or empty.
        count: classes share them as they do the training split.
        seed: image i of a seed is always the same image.
        measure: train classifiers on the real images, on these, and on both.
        repeats: how often each is trained, with weights and an order of its own.

    Returns:
        model, folder, seed, images (by class); where it was measured, accuracy: of each set its images, mean, std,
        values (one a repeat) and per_class (mean), and how it was measured.

    Raises:
        UserError: the model takes no labels, is of other data than the prepared ones, or `out` is no place to write to.
    """
    if count < 1 or not 0 <= seed < 2**63:
        raise UserError(f"--count should be 1 or more and --seed 0 to 2^63 - 1, not {count} and {seed}")
    check_new_folder(out, "--out")
    from genforge import provenance
    from genforge.models import in_proportion
    from genforge.steps.draw import origin

    drawing = named_model(project, model)
    if not drawing.classes:
        raise UserError(
            f"{model} takes no labels, so that nobody would know what its images show; name a conditional model, such "
            f"as one from the recipe conditional-edm"
        )
    if drawing.shape.is_point:
        raise UserError(
            f"{model} draws points of the plane, and a labelled set is one of pictures; see `genforge sample`"
        )
    classes = _folder_names(drawing.card.get("classes") or [str(label) for label in range(drawing.classes)])
    labels = in_proportion(np.array(drawing.card.get("label_counts") or [1] * drawing.classes), count)
    if measure:
        _check_measurable(project, model, classes, drawing.shape)

    said = replace(origin(model, project.root), seed=seed)
    parts: list[np.ndarray] = []
    with replacing_folder(out) as folder, Bar(f"drawing from {model}", count, "images") as bar:
        for name in classes:
            (folder / name).mkdir()
        digits = max(5, len(str(count - 1)))
        for part in drawing.batches(seed, count, batch_size=TOGETHER):
            first = sum(map(len, parts))
            for number, image in enumerate(part, first):
                words = replace(said, index=number, label=int(labels[number]))
                path = folder / classes[labels[number]] / f"{number:0{digits}d}.png"
                path.write_bytes(provenance.png(image, words))
            parts.append(part)
            bar.advance(len(part))
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    result = {"model": model, "folder": str(out), "seed": seed, "images": dict(zip(classes, counts, strict=True))}
    if measure:
        result["accuracy"] = accuracies(project, np.concatenate(parts), labels, repeats)
    return result


def accuracies(project: Project, images: np.ndarray, labels: np.ndarray, repeats: int) -> dict[str, Any]:
    """What classifiers reach on the test split that learned from the real training split, from these images, and from
    both; see `augment`.

    Args:
        images: uint8 (n, height, width, channels). labels: int64 (n,), numbers of the data's classes.
    """
    from genforge.data.loading import Prepared

    prepared = Prepared.open(project.prepared)
    real, real_labels, truth = np.asarray(prepared.images("train")), prepared.labels("train"), prepared.labels("test")
    assert real_labels is not None and truth is not None
    sets = {
        REAL: (real, real_labels),
        DRAWN: (images, labels),
        BOTH: (np.concatenate([real, images]), np.concatenate([real_labels, labels])),
    }
    settings = project.config.extractor
    found: dict[str, Any] = {}
    for name, (chosen, answers) in sets.items():
        right = np.array([_rightness(project, prepared, chosen, answers, name, repeat) for repeat in range(repeats)])
        per_class = {
            label: float(right[:, truth == number].mean()) if (truth == number).any() else None
            for number, label in enumerate(prepared.classes)
        }
        values = right.mean(axis=1)
        found[name] = {
            "images": len(chosen),
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if repeats > 1 else None,
            "values": values.tolist(),
            "per_class": per_class,
        }
    times = "1 training" if repeats == 1 else f"{repeats} trainings"
    how = (
        f"accuracy on {prepared.count('test')} held-out real images after {settings.steps} steps of "
        f"{settings.batch_size} images each, classifier of width {settings.width}; {times}"
    )
    return {"how": how, **found}


def _rightness(
    project: Project, prepared: Prepared, images: np.ndarray, labels: np.ndarray, name: str, repeat: int
) -> np.ndarray:
    """Train a classifier on these images, and tell which images of the test split it names rightly: bool (n,)."""
    import torch

    from genforge.contracts import to_network
    from genforge.data.loading import DeviceData, Prepared
    from genforge.networks.classifier import Classifier
    from genforge.objectives.classification import ROLE, Classification, ClassificationSettings
    from genforge.steps.extractor import classifier_training
    from genforge.training.loop import train

    seed = derive(project.config.seed, "augment", repeat)  # the same beginnings for every set
    seed_everything(seed)
    learning, settings = ClassificationSettings(), project.config.extractor
    port = Classification.ports(learning, prepared.shape, len(prepared.classes))[ROLE]
    network = Classifier(Classifier.settings_type.read({"width": settings.width}, "extractor"), port)
    training = classifier_training(settings.steps, settings.batch_size)
    with tempfile.TemporaryDirectory(prefix="genforge-augment-") as scratch:
        folder = Path(scratch)
        write_array(folder / "train-images.npy", images)
        write_array(folder / "train-labels.npy", labels.astype(np.int64))
        these = Prepared(folder, prepared.shape, prepared.classes, "", {"splits": {"train": len(images)}})
        data = DeviceData(these, "train", project.device, seed=seed)
        title = f"classifier {repeat + 1} on {name} images"
        train(Classification(learning, {ROLE: network}), data, training, device=project.device, seed=seed, title=title)

    truth, test = prepared.labels("test"), prepared.images("test")
    assert truth is not None
    named = []
    with torch.no_grad():
        for start in range(0, len(test), 1000):
            seen = to_network(torch.from_numpy(np.array(test[start : start + 1000])).to(project.device))
            named.append(network(seen).argmax(dim=1).cpu().numpy())
    right = np.concatenate(named) == truth
    say(f"{title}: {right.mean():.2%} of the held-out real images named rightly")
    return right


def _check_measurable(project: Project, model: str, classes: Sequence[str], shape: Any) -> None:
    """Raises UserError unless the model's images and labels are the prepared data's."""
    from genforge.data.loading import Prepared

    prepared = Prepared.open(project.prepared)
    if list(prepared.classes) != list(classes) or prepared.shape != shape:
        raise UserError(
            f"--measure: {model} draws {len(classes)} classes of {vars(shape)}, and the prepared data have "
            f"{len(prepared.classes)} of {vars(prepared.shape)}; measure in the project that it was trained in"
        )


def _folder_names(classes: Sequence[str]) -> list[str]:
    """The classes, which become folders.

    Raises:
        UserError: one would lead elsewhere.
    """
    for name in classes:
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise UserError(f"the model has a class {name!r}, which is no name for a folder; nothing was written")
    return list(classes)


def augmentation_table(result: Mapping[str, Any]) -> Group:
    """What `augment` did, for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    classes = ", ".join(f"{name}: {count}" for name, count in result["images"].items())
    lines: list[Any] = [Text(f"{result['folder']}: {sum(result['images'].values())} images ({classes})")]
    if measured := result.get("accuracy"):
        table = Table("learned from")
        for title in ("images", "accuracy", "its spread"):
            table.add_column(title, justify="right")
        for name in (REAL, DRAWN, BOTH):
            row = measured[name]
            spread = "" if row["std"] is None else f"{row['std']:.2%}"
            table.add_row(name, str(row["images"]), f"{row['mean']:.2%}", spread)
        lines += [table, Text(measured["how"])]
    return Group(*lines)
