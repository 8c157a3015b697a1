"""Lengths of the average of the weights, compared after training. Behind `genforge ema`.

Every length's network is made from what training wrote down (`training/power_averages.py`), draws the same images of
the same noise, and is judged as the leaderboard's are. Nothing is trained, and the trained model is left as it is:
`training.averages.choose` in params.yaml is what changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from genforge.files import replacing_folder, write_json
from genforge.progress import Bar
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.console import Group

METRIC = "fid"
EXPORTED = "0."  # what names of the exported network's weights begin with among those that are followed
SHOWN = 8  # images of each length in the picture


@dataclass(frozen=True)
class Length:
    """One average: its sigma_rel (None: the model as it was trained) and the FID of its images, with standard error."""

    sigma_rel: float | None
    fid: float
    fid_error: float | None


@dataclass(frozen=True)
class Averages:
    """What `genforge ema` writes down. images, seed: drawn for each length."""

    name: str
    protocol_name: str
    images: int
    seed: int
    lengths: list[Length]

    @property
    def best(self) -> Length:
        return min(self.lengths, key=lambda length: length.fid)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "best": self.best.sigma_rel}


def compare(project: Project, name: str, lengths: Sequence[float]) -> Averages:
    """Judge averages of these lengths, and write results/ema/<name>: ema.json, ema.png, samples.png (the same noise, a
    row a length; the first row is the model as it was trained).

    Raises:
        UserError: the recipe is not trained, or was trained without averages to choose from; a length is out of range.
    """
    from genforge.catalog import target
    from genforge.data.loading import Prepared
    from genforge.evaluation.fidelity import Judge
    from genforge.models import load
    from genforge.pictures import enough, film, save_png
    from genforge.report import figures
    from genforge.steps.evaluate import error_bars
    from genforge.steps.labels import labels_of
    from genforge.steps.train import AVERAGES
    from genforge.tracking import runs as tracking
    from genforge.training.power_averages import LONGEST, SHORTEST, read, rebuild

    for asked in lengths:
        if not SHORTEST <= asked <= LONGEST:
            raise UserError(f"--sigma-rel {asked:g}: should be {SHORTEST:g} to {LONGEST:g}, as a share of training")
    project.recipe(name)  # a mistyped name is told before anything is opened
    model = load(project.model(name), target, project.device)
    snapshots = read(project.model(name) / AVERAGES)

    evaluation = project.config.evaluation
    judge = Judge.open(project.extractor, project.prepared, project.device, evaluation.batch_size)
    labels = labels_of(model.classes, Prepared.open(project.prepared), evaluation.images)
    protocol, seed = judge.protocol(evaluation.images), evaluation.seeds[0]
    found = Averages(name, protocol.name, evaluation.images, seed, [])
    rows = []
    wanted: list[float | None] = [None, *sorted(set(lengths))]
    with (
        tracking.run(project.root, kind="ema", name=name, tags={"protocol": protocol.name}) as record,
        Bar(f"averages of {name}", len(wanted), "lengths") as bar,
    ):
        for place, length in enumerate(wanted):
            if length is not None:
                made = rebuild(snapshots, length)
                own = {key.removeprefix(EXPORTED): value for key, value in made.items() if key.startswith(EXPORTED)}
                model.network.load_state_dict(own, strict=False)  # buffers are the network's own
            try:
                images = model.draw(seed, evaluation.images, labels=labels, batch_size=evaluation.batch_size)
            except ValueError as error:
                raise UserError(f"{name}, sigma_rel {length}: {error}") from error
            seen = judge.extractor.features(images, evaluation.batch_size)
            fid = judge.measure(seen, [METRIC])[METRIC]
            found.lengths.append(Length(length, fid, error_bars(judge.reference, [seen], [METRIC]).get(METRIC)))
            title = "as trained" if length is None else f"{length:g}"
            rows.append((title, images[: enough(model.shape.stored, SHOWN)]))
            record.metrics(place, {METRIC: fid, **({} if length is None else {"sigma_rel": length})})
            bar.advance(1, f"{METRIC} {fid:.2f}")
        with replacing_folder(project.averages(name)) as folder:
            write_json(folder / "ema.json", found.to_json())
            points = [(length.sigma_rel, length.fid) for length in found.lengths if length.sigma_rel is not None]
            if points:
                figures.lengths(folder / "ema.png", points, found.lengths[0].fid)
            save_png(folder / "samples.png", film(rows, SHOWN))
        record.artifact(project.averages(name), "ema")
    return found


def averages_table(found: Averages) -> Group:
    """For a terminal."""
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    table = Table("sigma_rel")
    table.add_column("FID ± standard error", justify="right")
    for length in found.lengths:
        error = "" if length.fid_error is None else f" ± {length.fid_error:.2f}"
        named = "as trained" if length.sigma_rel is None else f"{length.sigma_rel:g}"
        table.add_row(named, f"{length.fid:.2f}{error}", style="bold" if length == found.best else None)
    lines: list[RenderableType] = [Text(f"{found.name}: {found.images} images, protocol {found.protocol_name}"), table]
    if found.best.sigma_rel is not None:
        lines.append(
            Text(
                f"to take the best: training: {{averages: {{choose: {found.best.sigma_rel:g}}}}} in the recipe; the "
                f"next run finishes the training anew, in seconds"
            )
        )
    return Group(*lines)
