"""Samplers times steps on one trained denoiser: what each costs and how well it draws. Behind `genforge samplers`.

Nothing is trained. Every sampler draws the same images of the same noise, which are judged as the leaderboard's are.
What was measured of the same weights by the same protocol is kept, so that a comparison grows from call to call.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.files import digest_file, read_array, read_json, write_array, write_json, write_text
from genforge.progress import Bar, say
from genforge.settings import Settings, UserError, nearest
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.console import Group

    from genforge.contracts import Sampler
    from genforge.models import Model

METRIC = "fid"
SHOWN = 9  # images of each cell of the picture
SIDE = 24  # pixels at least of each of them
DOCUMENT = "samplers.json"


@dataclass(frozen=True)
class Cell:
    """One sampler at one number of steps.

    settings: the sampler's, all of them. fid: of the first evaluation seed's images, with its standard error.
    evaluations: of the network for one image. seconds: of drawing all images.
    """

    sampler: str
    steps: int
    settings: dict[str, Any]
    fid: float
    fid_error: float | None
    evaluations: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What `genforge samplers` writes down.

    weights: digest of the network's. machine: what `seconds` are of. images, seed: drawn for each cell.
    """

    name: str
    weights: str
    protocol_name: str
    protocol: dict[str, Any]
    images: int
    seed: int
    machine: str
    cells: list[Cell]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(project: Project, name: str, steps: Sequence[int], samplers: Sequence[str] | None = None) -> Comparison:
    """Measure every sampler of `samplers` at every number of `steps`, and write results/samplers/<name>: samplers.json,
    samplers.md, samplers.png (what each draws) and curves.png.

    Args:
        name: a trained recipe whose network is a denoiser.
        samplers: names; None: all that suit what the network was taught.

    Raises:
        UserError: the recipe is not trained or is none of a denoiser; a sampler is unknown or cannot take so many
            steps; nothing can be judged.
    """
    from genforge.catalog import target
    from genforge.data.loading import Prepared
    from genforge.evaluation.fidelity import Judge
    from genforge.models import load
    from genforge.pictures import enough
    from genforge.steps.edit import check_denoiser
    from genforge.steps.labels import labels_of
    from genforge.tracking import runs as tracking

    project.recipe(name)  # a mistyped name is told before anything is opened
    folder, evaluation = project.samplers(name), project.config.evaluation
    model = load(project.model(name), target, project.device)
    check_denoiser(model, name, "samplers and their steps can be compared")
    chosen = [_choice(model, sampler, count) for sampler in _names(model, samplers) for count in sorted(set(steps))]
    built = [_built(model, choice) for choice in chosen]  # every mistake is told before anything is drawn

    judge = Judge.open(project.extractor, project.prepared, project.device, evaluation.batch_size)
    labels = labels_of(model.classes, Prepared.open(project.prepared), evaluation.images)
    protocol, seed = judge.protocol(evaluation.images), evaluation.seeds[0]
    found = Comparison(
        name=name,
        weights=digest_file(project.model(name) / "weights.safetensors"),
        protocol_name=protocol.name,
        protocol=protocol.to_json(),
        images=evaluation.images,
        seed=seed,
        machine=machine(),
        cells=[],
    )
    found.cells.extend(_kept(folder, found))
    known = {(cell.sampler, cell.steps): cell.settings for cell in found.cells}
    missing = [
        (choice, sampler)
        for choice, sampler in zip(chosen, built, strict=True)
        if known.get((choice["name"], choice["steps"])) != choice
    ]
    if len(missing) < len(chosen):
        say(f"{len(chosen) - len(missing)} of {len(chosen)} were measured before on these weights, by this protocol")
    if not missing:
        return found
    with (
        tracking.run(project.root, kind="samplers", name=name, tags={"protocol": protocol.name}) as record,
        Bar(f"samplers of {name}", len(missing), "samplers") as bar,
    ):
        for choice, sampler in missing:
            images, evaluations, seconds = _draw(model, sampler, evaluation.images, seed, labels, evaluation.batch_size)
            seen = judge.extractor.features(images, evaluation.batch_size)
            value = judge.measure(seen, [METRIC])[METRIC]
            error = _error(judge, seen)
            cell = Cell(choice["name"], choice["steps"], choice, value, error, evaluations, seconds)
            found.cells[:] = _in_order([*(old for old in found.cells if _place(old) != _place(cell)), cell])
            shown = images[: enough(model.shape.stored, SHOWN)]
            write_array(folder / "drawn" / f"{cell.sampler}-{cell.steps}.npy", shown)
            write_json(folder / DOCUMENT, found.to_json())
            record.metrics(cell.steps, {f"{cell.sampler}_{METRIC}": value, f"{cell.sampler}_seconds": seconds})
            bar.advance(1, f"{cell.sampler} {cell.steps}: {value:.2f}")
        _pictures(found, folder)
        write_text(folder / "samplers.md", markdown(found))
        record.artifact(folder, "samplers")
    return found


def _names(model: Model, samplers: Sequence[str] | None) -> list[str]:
    """Names of samplers, each of which can draw from the model's network."""
    from genforge.catalog import SAMPLERS, check_suits, suited

    port = model.network.port
    for name in samplers or ():
        if name not in SAMPLERS:
            raise UserError(f"--samplers: no sampler is called {name!r}; {nearest(name, suited('sampler', port))}")
        check_suits("sampler", name, port, "--samplers")
    return list(dict.fromkeys(samplers or suited("sampler", port)))


def _choice(model: Model, name: str, steps: int) -> dict[str, Any]:
    """The sampler `name` with what it shares with the recipe's own one, at `steps` steps on its usual grid."""
    from genforge.catalog import target

    kind: type[Settings] = target("sampler", name).settings_type
    own = dict(model.card["exported"]["sampler"])
    same = own.pop("name") == name
    of_all = {"clip", "guidance", "autoguidance", "spacing"}
    shared = {key: value for key, value in own.items() if key in kind.model_fields and (same or key in of_all)}
    settings = kind.read({**shared, "steps": steps, "sigmas": None}, f"sampler {name}")
    return {"name": name, **settings.model_dump(mode="json")}


def _built(model: Model, choice: Mapping[str, Any]) -> Sampler:
    from genforge.catalog import build_sampler

    sampler = build_sampler(choice)
    sampler.check(model.network)
    return sampler


def _draw(
    model: Model, sampler: Sampler, images: int, seed: int, labels: Any, batch_size: int
) -> tuple[np.ndarray, float, float]:
    """The images, how often the network was evaluated for one of them, and the seconds for all."""
    from genforge.models import Model
    from genforge.networks.denoiser import Denoiser

    evaluated = 0

    def count(module: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal evaluated
        evaluated += len(arguments[0])

    # A guide beside the denoiser counts as well; what only passes on to another one does not.
    denoisers = [module for module in model.network.modules() if isinstance(module, Denoiser)]
    asked = [one for one in denoisers if not any(isinstance(inner, Denoiser) for inner in one.children())]
    handles = [one.register_forward_pre_hook(count) for one in asked]
    try:
        began = time.perf_counter()
        drawn = Model(model.network, sampler, model.card).draw(seed, images, labels=labels, batch_size=batch_size)
        return drawn, evaluated / images, time.perf_counter() - began
    except ValueError as error:
        raise UserError(f"{type(sampler).__name__} at {sampler.settings}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()


def _error(judge: Any, seen: Any) -> float | None:
    """Standard error of the metric, by regrouping the images."""
    from genforge.steps.evaluate import error_bars

    return error_bars(judge.reference, [seen], [METRIC]).get(METRIC)


def _kept(folder: Path, found: Comparison) -> list[Cell]:
    """What an earlier call measured of the same weights, by the same protocol, on the same machine."""
    if not (folder / DOCUMENT).is_file():
        return []
    before = read_json(folder / DOCUMENT)
    same = ("weights", "protocol_name", "images", "seed", "machine")
    if any(before.get(key) != getattr(found, key) for key in same):
        return []
    return [Cell(**cell) for cell in before["cells"]]


def _place(cell: Cell) -> tuple[str, int]:
    return cell.sampler, cell.steps


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """As the catalog has the samplers, and by steps."""
    from genforge.catalog import SAMPLERS

    order = {name: place for place, name in enumerate(SAMPLERS)}
    return sorted(cells, key=lambda cell: (order.get(cell.sampler, len(order)), cell.steps))


def machine() -> str:
    """What seconds were measured on."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = os.cpu_count()
    return f"CPU, {torch.get_num_threads()} of {cores} cores ({_processor()})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _pictures(found: Comparison, folder: Path) -> None:
    from genforge.pictures import enlarge, factor_to_see, grid, sheet
    from genforge.report import figures

    cells = {}
    for cell in found.cells:
        images = read_array(folder / "drawn" / f"{cell.sampler}-{cell.steps}.npy")
        if images.dtype == np.uint8:
            picture = enlarge(grid(images, enlarged=False), factor_to_see(images.shape[1], images.shape[2], SIDE))
        else:
            picture = sheet(images)
        cells[_place(cell)] = (picture, f"FID {cell.fid:.2f}  {cell.seconds:.3g} s  {cell.evaluations:g} ev.")
    figures.grid_of_samplers(folder / "samplers.png", cells)
    lines: dict[str, list[tuple[float, float]]] = {}
    for cell in found.cells:
        lines.setdefault(cell.sampler, []).append((cell.evaluations, cell.fid))
    figures.cost_and_quality(
        folder / "curves.png", lines, "evaluations of the network an image", "FID, lower is better"
    )


def comparison_table(found: Comparison) -> Group:
    """For a terminal: a row a sampler, a column a number of steps."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    steps = sorted({cell.steps for cell in found.cells})
    about = f"{found.name}: FID ± standard error, seconds for {found.images} images, evaluations an image"
    table = Table("sampler")
    for count in steps:
        table.add_column(f"{count} steps", justify="right")
    for name, row in _rows(found).items():
        table.add_row(name, *(_words(row[count]).replace(", ", "\n") if count in row else "" for count in steps))
    return Group(Text(about), Text(f"protocol {found.protocol_name}; {found.machine}"), table)


def markdown(found: Comparison) -> str:
    """The same for a document."""
    steps = sorted({cell.steps for cell in found.cells})
    lines = [
        f"FID ± standard error, seconds for {found.images} images, evaluations of the network an image. "
        f"Protocol {found.protocol_name}; {found.machine}.",
        "",
        "| sampler | " + " | ".join(f"{count} steps" for count in steps) + " |",
        "| --- |" + " --- |" * len(steps),
    ]
    for name, row in _rows(found).items():
        lines.append(
            f"| `{name}` | " + " | ".join(_words(row[count]) if count in row else "" for count in steps) + " |"
        )
    return "\n".join(lines) + "\n"


def _rows(found: Comparison) -> dict[str, dict[int, Cell]]:
    rows: dict[str, dict[int, Cell]] = {}
    for cell in found.cells:
        rows.setdefault(cell.sampler, {})[cell.steps] = cell
    return rows


def _words(cell: Cell) -> str:
    error = "" if cell.fid_error is None else f" ± {cell.fid_error:.2f}"
    return f"{cell.fid:.2f}{error}, {cell.seconds:.3g} s, {cell.evaluations:g}"
