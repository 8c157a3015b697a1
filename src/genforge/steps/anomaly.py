"""Find the strangest images: score any images by a trained model, behind `genforge anomaly`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.files import read_json
from genforge.settings import UserError, nearest
from genforge.shapes import EIGHT_BIT, POINTS
from genforge.steps.judge import BROKEN_SHOWN, read_images
from genforge.steps.likelihood import held_out
from genforge.steps.named_model import named_model
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.console import Group

    from genforge.data.loading import Prepared
    from genforge.evaluation.anomaly import Observer, Score

LIMIT = 1000  # images of a split that stand for all of it
SHOWN = 20  # rows of the table
PICTURED = 64  # images of the picture
LIKELIHOOD_ALONE = (
    "a likelihood alone is higher the simpler an image is, and lets simple strangers pass (Nalisnick et al. 2019): "
    "compare with --by complexity and --by typicality"
)


def anomaly(
    project: Project,
    path: Path,
    model: str | None = None,
    by: str | None = None,
    against: Path | None = None,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Score images by how strange they are to a trained model.

    Args:
        path: a folder (looked through to any depth), an image, or a uint8 `.npy` array (n, height, width, channels),
            gray also (n, height, width). Files go through the same rules as the data's.
        model: a recipe of params.yaml, a trained folder, or a registered model (NAME@ALIAS, NAME/VERSION, `models:/`).
            None: of the trained recipes that can give this score, the one that finds held-out images likeliest, or the
            first.
        by: a name of `genforge.evaluation.anomaly.SCORES`; None: likelihood.
        against: normal images, as `path`. None: images of the test split that nothing was trained on.
        picture: a .png to write, the strangest images first.

    Returns:
        path, images (name, score and p of each, the strangest first), model, by, title, unit, how, against (path,
        images, their mean score), auroc (value, standard_error, or None for a single image), broken, notes.

    Raises:
        UserError: there is nothing at a path, no such model, or the model cannot give this score.
    """
    from genforge.data.loading import Prepared
    from genforge.evaluation.anomaly import SCORES, auroc, p_values
    from genforge.evaluation.fidelity import check_images

    by = by or "likelihood"
    if by not in SCORES:
        raise UserError(f"--by {by}: no score is called that; {nearest(by, list(SCORES))}")
    prepared = Prepared.open(project.prepared)
    if picture is not None and (picture.suffix != ".png" or prepared.shape.is_point):
        raise UserError(f"--picture {picture}: should end with .png, and the data be images")
    score = _score(project, model, by)
    shape = score.observer.exported.port.image
    if shape != prepared.shape:
        raise UserError(
            f"{score.observer.name} knows images of {vars(shape)}, but the prepared data are of {vars(prepared.shape)}"
        )

    found = read_images(project, path, shape, single=True)
    check_images(found.images, shape, fewest=1)
    if against is None:
        normal, source = held_out(prepared, LIMIT)[0], "held-out test split"
    else:
        normal, source = read_images(project, against, shape).images, str(against)
        check_images(normal, shape, fewest=2)

    score.fit(_some(prepared, "train"))
    scores, usual = score.of(found.images), score.of(normal)
    order = np.argsort(-scores, kind="stable")
    if picture is not None:
        from genforge.pictures import grid, save_png

        save_png(picture, grid(found.images[order[:PICTURED]]))
    names = found.names or [str(number) for number in range(len(scores))]
    p = p_values(scores, usual)
    apart = auroc(scores, usual) if len(scores) > 1 else None
    return {
        "path": str(path),
        "model": score.observer.name,
        "by": by,
        "title": score.title,
        "unit": score.unit,
        "how": score.how,
        "images": [{"image": names[i], "score": float(scores[i]), "p": float(p[i])} for i in order],
        "against": {"path": source, "images": len(usual), "mean": float(usual.mean())},
        "auroc": apart and {"value": apart[0], "standard_error": apart[1]},
        "broken": found.broken,
        "notes": [LIKELIHOOD_ALONE] if by == "likelihood" else [],
    }


def _score(project: Project, model: str | None, by: str) -> Score:
    """The score, of the model that was asked for or of the best that can give it."""
    from genforge.evaluation.anomaly import SCORES

    if model is not None:
        return SCORES[by](_observer(project, model))
    able: list[tuple[float, Score]] = []
    mistakes: list[str] = []
    for name in project.config.recipes:
        if (project.model(name) / "model.json").is_file():
            try:
                able.append((_bits(project, name), SCORES[by](_observer(project, name))))
            except UserError as error:
                mistakes.append(str(error))
    if not able:
        told = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise UserError(
            f"no trained recipe of params.yaml gives the score {by!r}; train one that does, such as pixelcnn "
            f"(likelihood, complexity, typicality) or ddpm (reconstruction), or name one with --model{told}"
        )
    return min(able, key=lambda pair: pair[0])[1]


def _bits(project: Project, name: str) -> float:
    """Bits per dimension of held-out images, as they were evaluated; infinity where they were not, or where it was
    told how likely something else is (binarised images, or an image given its class)."""
    path = project.evaluation(name)
    told = read_json(path).get("likelihood") if path.is_file() else None
    return told["bits"] if told and told["protocol"]["of"] in (EIGHT_BIT, POINTS) else float("inf")


def _observer(project: Project, name: str) -> Observer:
    """The model of that name, ready to look at images."""
    from genforge.evaluation.anomaly import Observer

    model = named_model(project, name, companions=True)
    counts = tuple(model.card.get("label_counts") or [1] * model.classes) if model.classes else ()
    return Observer(name, model.networks, model.card.get("role", "network"), model.density, counts, project.device)


def _some(prepared: Prepared, split: str) -> np.ndarray:
    """At most LIMIT images of a split, always the same: uint8 (n, height, width, channels)."""
    count = prepared.count(split)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:LIMIT])
    return np.asarray(prepared.images(split))[chosen]


def anomaly_table(result: Mapping[str, Any]) -> Group:
    """What `anomaly` found, for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("image")
    table.add_column(result["unit"], justify="right")
    table.add_column("p", justify="right")
    for row in result["images"][:SHOWN]:
        table.add_row(Text(row["image"]), f"{row['score']:.4g}", f"{row['p']:.3g}")
    normal = result["against"]
    notes = [
        f"p: how often normal images ({normal['path']}, {normal['images']} of them, mean {normal['mean']:.4g}) score "
        f"as high or higher",
    ]
    if (more := len(result["images"]) - SHOWN) > 0:
        notes.insert(0, f"and {more} more that are less strange; --json lists all")
    if apart := result["auroc"]:
        notes.append(f"AUROC against them: {apart['value']:.3f} ± {1.96 * apart['standard_error']:.3f}")
    notes += result["notes"]
    notes += [f"  {entry['path']}: {entry['reason']}" for entry in result["broken"][:BROKEN_SHOWN]]
    title = f"{result['path']}, the strangest first, by {result['title']} under {result['model']} ({result['how']})"
    return Group(Text(title), table, *map(Text, notes))
