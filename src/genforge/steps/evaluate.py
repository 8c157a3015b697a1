"""Judge one recipe's samples, or `floor`: as many held-out real images, judged in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.evaluation.leaderboard import FLOOR
from genforge.files import read_array, write_json
from genforge.progress import say
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from genforge.data.loading import Prepared


def run(project: Project, name: str | None = None) -> None:
    """Write results/evaluations/<name>.json: every metric's values, one a sampling seed, with mean and spread;
    and results/metrics/<name>.json, the same in short.

    Raises:
        UserError: there are no samples, they are of another shape or number than the protocol says, or the test split
            holds too few images for the floor.
    """
    if name is None:
        raise UserError(f"step evaluate: name a recipe, or `{FLOOR}`, such as `genforge step evaluate gan`")
    from genforge.evaluation.fidelity import Judge
    from genforge.tracking import runs as tracking

    settings = project.config.evaluation
    judge = Judge.open(project.extractor, project.prepared, project.device, settings.batch_size)
    protocol = judge.protocol(settings.images)
    family, origin = ("real", "held-out test split") if name == FLOOR else _recipe(project, name)
    with tracking.run(project.root, kind="evaluate", name=name, tags={"protocol": protocol.name}) as record:
        values: list[dict[str, float]] = []
        for number, images in enumerate(_images(project, name)):
            values.append(judge.score(images))
            record.metrics(number, values[-1])
        metrics = {key: summary([found[key] for found in values]) for key in values[0]}
        record.metrics(len(values), {f"{key}_mean": found["mean"] for key, found in metrics.items()})
    result: dict[str, Any] = {
        "name": name,
        "family": family,
        "origin": origin,
        "seeds": list(settings.seeds),
        "metrics": metrics,
        "left_out": judge.left_out,
        "protocol_name": protocol.name,
        "protocol": protocol.to_json(),
    }
    write_json(project.evaluation(name), result)
    write_json(project.metrics(name), in_short(result))
    say(f"{name}: FID {metrics['fid']['mean']:.2f} ± {metrics['fid']['std']:.2f} (protocol {protocol.name})")


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample: n - 1 in the denominator) and the values themselves, one a seed."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "values": list(values)}


def in_short(result: dict[str, Any]) -> dict[str, Any]:
    """Means and spreads alone, beside the protocol's name: what `dvc metrics show` has room for."""
    short: dict[str, Any] = {}
    for key, found in result["metrics"].items():
        short |= {key: found["mean"], f"{key}_std": found["std"]}
    return {**short, "protocol": result["protocol_name"]}


def _recipe(project: Project, name: str) -> tuple[str, str]:
    recipe = project.recipe(name)
    return recipe.family, recipe.origin


def _images(project: Project, name: str) -> Iterator[np.ndarray]:
    """What is judged, one set a sampling seed, each uint8 (n, height, width, channels)."""
    settings = project.config.evaluation
    if name == FLOOR:
        from genforge.data.loading import Prepared

        yield from (held_out(Prepared.open(project.prepared), settings.images, seed) for seed in settings.seeds)
        return
    for seed in settings.seeds:
        path = project.samples(name) / f"seed-{seed}.npy"
        images = read_array(path, memory_map=True)
        if len(images) != settings.images:
            raise UserError(
                f"{path} holds {len(images)} images, but evaluation.images is {settings.images}; draw them again with "
                f"`genforge step sample {name}`"
            )
        yield images


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
