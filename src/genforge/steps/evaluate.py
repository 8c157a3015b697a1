"""Judge one recipe's samples, or `floor`: as many held-out real images, judged in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.evaluation.collapse import Variety, pixel_diversity
from genforge.evaluation.leaderboard import FLOOR, half_width, with_error
from genforge.evaluation.metrics import metric
from genforge.files import read_array, write_json
from genforge.progress import say
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from torch import Tensor

    from genforge.contracts import Network
    from genforge.data.loading import Prepared
    from genforge.evaluation.features import Features
    from genforge.evaluation.fidelity import Judge
    from genforge.evaluation.reference import Reference
    from genforge.models import Model

CONFIDENCE = 0.95  # of the intervals
TINY = 1e-12  # of data that are all the same image, to which nothing is less varied
FEW_DEALS = 5  # of images into groups, for metrics that take long


def run(project: Project, name: str | None = None) -> None:
    """Write results/evaluations/<name>.json: every metric's values, one a sampling seed, with mean and spread;
    and results/metrics/<name>.json, the same in short.

    Raises:
        UserError: there are no samples, they are of another shape or number than the protocol says, the test split
            holds too few images for the floor, or `evaluation.metrics` names what cannot be computed, or leaves out
            what models are ranked by.
    """
    if name is None:
        raise UserError(f"step evaluate: name a recipe, or `{FLOOR}`, such as `genforge step evaluate gan`")
    from PIL import Image

    from genforge.data.loading import Prepared
    from genforge.evaluation.fidelity import Judge, check_images
    from genforge.steps.latent import in_numbers, knowledge_of
    from genforge.steps.likelihood import likelihood_of
    from genforge.tracking import runs as tracking

    settings = project.config.evaluation
    judge = Judge.open(project.extractor, project.prepared, project.device, settings.batch_size)
    chosen = wanted(project, judge)
    of_images = [key for key in chosen if key in judge.metrics]
    of_latent = [key for key in chosen if key in judge.latent_metrics]
    protocol = judge.protocol(settings.images)
    family, origin = ("real", "held-out test split") if name == FLOOR else _recipe(project, name)
    model = _model(project, name)
    latent = _latent(project, model) if model and of_latent else None
    tags = {"protocol": protocol.name, "family": family, "origin": origin}
    with tracking.run(project.root, "evaluate", name, _parameters(project, name, model), tags) as record:
        values: list[dict[str, float]] = []
        seen: list[Features] = []
        pixels: list[float] = []
        for number, (seed, images) in enumerate(_images(project, name)):
            check_images(images, judge.shape)
            seen.append(judge.extractor.features(images, settings.batch_size))
            pixels.append(pixel_diversity(images))
            found = judge.measure(seen[-1], of_images)
            if latent:
                found |= judge.score_latent(latent.network, latent.labels, settings.images, seed, of_latent)
            values.append(found)
            record.metrics(number, values[-1])
        variety = variety_of(judge, Prepared.open(project.prepared), seen, pixels)
        limits = settings.collapse_duplicates, settings.collapse_classes, settings.collapse_spread
        collapsed = variety.collapse(*limits) if name != FLOOR else ""
        if name != FLOOR:
            record.tags({"collapsed": collapsed or "no"})
        metrics = {key: summary([found[key] for found in values]) for key in values[0]}
        # Real images of different seeds are in part the same ones, so that the seeds of the floor count as one set.
        errors = error_bars(judge.reference, seen[:1] if name == FLOOR else seen, of_images)
        metrics = {key: {**found, **around(found, errors.get(key))} for key, found in metrics.items()}
        record.metrics(len(values), {f"{key}_mean": found["mean"] for key, found in metrics.items()})
        record.note(_note(name, metrics, protocol.name))
        if (grid := project.samples(name) / "grid.png").is_file():
            with Image.open(grid) as picture:
                record.image(
                    "samples",
                    len(values),
                    np.atleast_3d(np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))),
                )
        likelihood = likelihood_of(project, name, model) if model else None
        if likelihood:
            record.metrics(len(values), {"nats": likelihood.nats, "bits_per_dimension": likelihood.bits})
        latent_space = knowledge_of(model.networks, Prepared.open(project.prepared)) if model else None
        if latent_space:
            record.metrics(len(values), in_numbers(latent_space))
    result: dict[str, Any] = {
        "name": name,
        "family": family,
        "origin": origin,
        "seeds": list(settings.seeds),
        "metrics": metrics,
        **({"fid_infinity": at_infinity(judge.reference, seen)} if settings.fid_infinity and name != FLOOR else {}),
        **({"likelihood": likelihood.to_json()} if likelihood else {}),
        **({"latent_space": latent_space} if latent_space else {}),
        "variety": variety.to_json(),
        **({"collapsed": collapsed} if collapsed else {}),
        "left_out": judge.left_out,
        "protocol_name": protocol.name,
        "protocol": protocol.to_json(),
    }
    write_json(project.evaluation(name), result)
    write_json(project.metrics(name), in_short(result))
    ranking = metric(project.config.registry.metric)
    say(f"{name}: {ranking.title} {with_error(result, ranking.name)} (protocol {protocol.name})")
    if collapsed:
        say(f"{name} has collapsed: {collapsed}; it is not ranked and not registered")


def wanted(project: Project, judge: Judge) -> list[str]:
    """The metrics that `evaluation.metrics` asks for, or all that cost little.

    Raises:
        UserError: one is unknown or cannot be computed, or the one that models are ranked by is not among them.
    """
    chosen = judge.choose(project.config.evaluation.metrics, "evaluation.metrics")
    ranking = project.config.registry.metric
    if ranking not in chosen:
        raise UserError(
            f"evaluation.metrics: {', '.join(chosen)} leaves out {ranking}, by which models are ranked; add it, or "
            f"choose another registry.metric"
        )
    return chosen


def variety_of(judge: Judge, prepared: Prepared, seen: Sequence[Features], pixels: Sequence[float]) -> Variety:
    """How varied the images of all sampling seeds are, whichever metrics are asked for: of each seed what the extractor
    saw, and the diversity of its pixels. The judge may name classes that are not the data's: then none are counted."""
    from genforge.evaluation.measures.diversity import diversity

    of_data = len(prepared.card["classes"])
    classes = of_data if seen[0].are_told(of_data) else None
    real = prepared.images("train")
    alike = np.linspace(0, len(real) - 1, min(len(real), len(seen[0].features)), dtype=int)  # as many as are judged
    features_of_data, pixels_of_data = diversity(judge.reference.features), pixel_diversity(np.asarray(real[alike]))
    counted = ["duplicates", *(["classes"] if classes else [])]
    found = [
        {
            **judge.measure(one, counted),
            "features": diversity(one.features) / max(features_of_data, TINY),
            "pixels": spread / max(pixels_of_data, TINY),
        }
        for one, spread in zip(seen, pixels, strict=True)
    ]
    return Variety.of(found, classes)


@dataclass(frozen=True)
class _Latent:
    """A network that draws from a latent, and labels (images,) for it, or None."""

    network: Network
    labels: Tensor | None


def _model(project: Project, name: str) -> Model | None:
    """The recipe's model, with its companions and its density; None for real images."""
    if name == FLOOR:
        return None
    from genforge.catalog import target
    from genforge.models import load

    return load(project.model(name), target, project.device, companions=True)


def _latent(project: Project, model: Model) -> _Latent | None:
    """What a model that draws each image from one latent in one pass does so with; None for others."""
    from genforge.data.loading import Prepared
    from genforge.steps.labels import labels_of

    if model.network.kind != "latent_to_image":
        return None
    labels = labels_of(model.classes, Prepared.open(project.prepared), project.config.evaluation.images)
    return _Latent(model.network, labels)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample: n - 1 in the denominator) and the values themselves, one a seed."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "values": list(values)}


def error_bars(reference: Reference, seen: Sequence[Features], metrics: Sequence[str]) -> dict[str, float]:
    """Standard errors of means over sampling seeds, by regrouping images (`evaluation/uncertainty.py`)."""
    from genforge.evaluation.statistics import Measured, statistic_of
    from genforge.evaluation.uncertainty import DEALS, standard_error

    errors = {}
    for key in metrics:
        statistic = statistic_of(metric(key), reference)
        errors[key] = standard_error(statistic, seen, FEW_DEALS if isinstance(statistic, Measured) else DEALS)
    return errors


def at_infinity(reference: Reference, seen: Sequence[Features]) -> dict[str, Any]:
    """FID-infinity of all images, see `uncertainty.frechet_infinity`.

    Raises:
        UserError: there are too few images for this extractor's features.
    """
    from genforge.evaluation.measures.frechet import MEAN, ROOT
    from genforge.evaluation.statistics import FrechetDistance
    from genforge.evaluation.uncertainty import frechet_infinity, pooled

    statistic = FrechetDistance(reference.prepared[MEAN], reference.prepared[ROOT])
    try:
        return frechet_infinity(statistic, pooled(seen).features).to_json()
    except ValueError as error:
        raise UserError(f"evaluation.fid_infinity: {error}; raise evaluation.images or evaluation.seeds") from None


def around(found: dict[str, Any], error: float | None) -> dict[str, Any]:
    """The interval that holds the expectation with 95%, by the standard error; or, of what is no function of the images
    that were drawn, by Student's t over the seeds."""
    from scipy.special import ndtri, stdtrit  # quantiles of a normal and of Student's t, without all of `scipy.stats`

    seeds, quantile = len(found["values"]), 0.5 + CONFIDENCE / 2
    reach = ndtri(quantile) * error if error is not None else stdtrit(seeds - 1, quantile) * found["std"] / seeds**0.5
    low, high = found["mean"] - reach, found["mean"] + reach
    return {"standard_error": error, "low": float(low), "high": float(high), "confidence": CONFIDENCE}


def in_short(result: dict[str, Any]) -> dict[str, Any]:
    """Means and what stands behind their ± alone, beside the protocol's name: what `dvc metrics show` has room for."""
    short: dict[str, Any] = {}
    for key, found in result["metrics"].items():
        short |= {key: found["mean"], f"{key}_error": half_width(found)}
    if told := result.get("likelihood"):
        short["bits_per_dimension"] = told["bits"]
    return {**short, "protocol": result["protocol_name"]}


def _recipe(project: Project, name: str) -> tuple[str, str]:
    recipe = project.recipe(name)
    return recipe.family, recipe.origin


def _parameters(project: Project, name: str, model: Model | None) -> dict[str, Any]:
    """What was judged, beside its scores in MLflow: so runs of `evaluate` can be compared by their settings. MLflow's
    comparison begins with the first three by the alphabet, which are therefore told of every family."""
    if model is None:
        return {"images": "held-out real ones"}
    recipe = project.recipe(name)
    settings = recipe.model_dump(mode="json", include={"networks", "objective", "sampler", "training"})
    trained: dict[str, Any] = {
        key: model.card[key] for key in ("images_seen", "parameters", "steps") if key in model.card
    }
    return {"family": recipe.family, "from": recipe.origin, **trained, **settings}


def _note(name: str, metrics: Mapping[str, Any], protocol: str) -> str:
    """Markdown: every metric with its error."""
    lines = [
        f"{name} under protocol `{protocol}`: mean ± half of the 95% interval",
        "",
        "| metric | |",
        "| --- | --- |",
    ]
    return "\n".join([*lines, *(f"| {metric(key).title} {metric(key).arrow} | {with_error({'metrics': metrics}, key)} |"
                                for key in metrics)])  # fmt: skip


def _images(project: Project, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """What is judged: each sampling seed and its images, uint8 (n, height, width, channels)."""
    settings = project.config.evaluation
    if name == FLOOR:
        from genforge.data.loading import Prepared

        yield from ((seed, held_out(Prepared.open(project.prepared), settings.images, seed)) for seed in settings.seeds)
        return
    for seed in settings.seeds:
        path = project.samples(name) / f"seed-{seed}.npy"
        images = read_array(path, memory_map=True)
        if len(images) != settings.images:
            raise UserError(
                f"{path} holds {len(images)} images, but evaluation.images is {settings.images}; draw them again with "
                f"`genforge step sample {name}`"
            )
        yield seed, images


def held_out(prepared: Prepared, count: int, seed: int) -> np.ndarray:
    """`count` images of the test split, drawn without replacement by the seed.

    Raises:
        UserError: the test split holds fewer.
    """
    there = prepared.count("test")
    if there < count:
        raise UserError(
            f"evaluation.images is {count}, but the test split holds {there} images, and the floor needs as many real "
            f"ones as are generated; lower evaluation.images or raise data.test"
        )
    chosen = np.sort(np.random.RandomState(seed % 2**32).permutation(there)[:count])
    return np.asarray(prepared.images("test"))[chosen]
