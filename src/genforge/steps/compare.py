"""Two models beside each other, whoever made them and whenever: behind `genforge compare`.

Both draw the same images' seeds here and now and are looked at by the same judge, so that numbers of different
protocols cannot meet. What is told is the probability that the first is better (`genforge.evaluation.uncertainty`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.files import check_new_folder, replacing_folder, write_json
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.console import Group

COMPARED = ("fid", "kid", "precision", "recall", "coverage")
FOLDER = "comparisons"  # in results
DOCUMENT = "comparison.json"  # in the page's folder


def compare(project: Project, first: str, second: str, out: Path | None = None) -> dict[str, Any]:
    """Compare two models on the prepared data, and write a page about it.

    Args:
        first, second: a recipe of params.yaml, `digits@staging`, `digits/3`, or a folder with a trained model.
        out: the page's folder: new, empty, or that of an earlier comparison, whose place it takes; None:
            `results/comparisons/<first>-<second>`.

    Returns:
        first, second, images (a seed), seeds, metrics (name to means, difference, its interval, probability that the
        first is better), words, page, protocol_name, protocol.

    Raises:
        UserError: there is no such model, it draws images of another shape, both are the same words, or `out` holds
            something else.
    """
    from genforge.evaluation import uncertainty
    from genforge.evaluation.fidelity import Judge, check_images
    from genforge.evaluation.metrics import METRICS
    from genforge.evaluation.statistics import statistic_of
    from genforge.pictures import enough
    from genforge.progress import Bar
    from genforge.report import comparison_page

    if first == second:
        raise UserError(f"{first!r} is compared with itself; name two models")
    if out is not None:
        check_new_folder(out, "--out", ours=DOCUMENT)
    settings = project.config.evaluation
    sources = {model: _source(project, model) for model in (first, second)}
    judge = Judge.open(project.extractor, project.prepared, project.device, settings.batch_size)
    seen: dict[str, list[Any]] = {model: [] for model in sources}
    shown: dict[str, np.ndarray] = {}
    with Bar("drawing", 2 * len(settings.seeds) * settings.images, "images") as bar:
        for model, draw in sources.items():
            for seed in settings.seeds:
                images = draw(seed, settings.images, 0)
                check_images(images, judge.shape)
                seen[model].append(judge.extractor.features(images, settings.batch_size))
                shown.setdefault(model, images[: enough(judge.shape.stored, comparison_page.SHOWN)])
                bar.advance(len(images))
    names = [name for name in dict.fromkeys((project.config.registry.metric, *COMPARED)) if name in judge.metrics]
    found = {
        name: uncertainty.compare(statistic_of(METRICS[name], judge.reference), seen[first], seen[second]).to_json()
        for name in names
    }
    protocol = judge.protocol(settings.images)
    out = out or project.results / FOLDER / f"{_safe(first)}-{_safe(second)}"
    told = {
        "first": first,
        "second": second,
        "images": settings.images,
        "seeds": list(settings.seeds),
        "metrics": found,
        "words": in_words(first, second, found[names[0]]),
        "page": str(out / "index.html"),
        "protocol_name": protocol.name,
        "protocol": protocol.to_json(),
    }
    with replacing_folder(out) as folder:
        comparison_page.write(told, shown[first], shown[second], folder)
        write_json(folder / DOCUMENT, told)
    return told


def in_words(first: str, second: str, found: Mapping[str, Any]) -> str:
    """Which is better by one metric, and how sure that is."""
    from genforge.evaluation.metrics import METRICS
    from genforge.evaluation.uncertainty import SURE

    metric = METRICS[found["metric"]]
    numbers = f"{metric.title} {metric.show(found['first'])} against {metric.show(found['second'])}"
    probability = found["probability"]
    if probability >= SURE:
        return f"{first} is better than {second}: {numbers}, probability {_sureness(probability)}"
    if probability <= 1.0 - SURE:
        return f"{second} is better than {first}: {numbers}, probability {_sureness(1.0 - probability)}"
    return f"neither is surely better: {numbers}; that {first} is has probability {probability:.2g}"


def _sureness(probability: float) -> str:
    """A probability from SURE on, which luck alone keeps from being 1."""
    return "above 0.999" if probability > 0.999 else f"{probability:.3g}"


def comparison_table(told: Mapping[str, Any]) -> Group:
    """The comparison, for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from genforge.evaluation.metrics import METRICS

    table = Table("metric", "better")
    for heading in (told["first"], told["second"], "difference", "95% interval", "first is better"):
        table.add_column(Text(heading), justify="right")
    for name, found in told["metrics"].items():
        metric = METRICS[name]
        values = (found["first"], found["second"], found["difference"])
        interval = f"{metric.show(found['low'])} to {metric.show(found['high'])}"
        table.add_row(metric.title, metric.better, *map(metric.show, values), interval, f"{found['probability']:.3f}")
    drawn = f"{told['images']} images of seeds {', '.join(map(str, told['seeds']))}, protocol {told['protocol_name']}"
    return Group(table, Text(told["words"]), Text(drawn), Text(told["page"]))


def _source(project: Project, model: str) -> Any:
    from genforge.steps.draw import source_of

    if model in project.config.recipes:
        if not project.model(model).is_dir():
            raise UserError(f"{model} is not trained yet; run `genforge run`, or `genforge step train {model}`")
        return source_of(str(project.model(model).relative_to(project.root)), project.root)
    return source_of(model, project.root)


def _safe(model: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in model.lower()).strip("-")
