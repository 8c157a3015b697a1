"""Gates: named checks between a model and an alias, as `gates:` of params.yaml says.

What a model is by itself (finite, no copies, harm, balance, speed, size, drawing alone) hangs on files and is the
pipeline's stage `gates`, whose verdicts lie in results/gates. What it is beside the holder of an alias (better, not
worse on coverage) hangs on the registry and is asked in the moment when the alias is to move, by the step `register`,
which keeps the whole verdict in results/verdicts. Nothing moves on a verdict about other weights.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.catalog import build_gates
from genforge.cores import cores
from genforge.evaluation.leaderboard import BASELINE
from genforge.files import read_array, read_json, replacing_folder, write_json
from genforge.progress import say
from genforge.settings import UserError
from genforge.steps.project import Project
from genforge.trained_folder import digest

if TYPE_CHECKING:
    from genforge.evaluation.features import Features
    from genforge.evaluation.gates.gate import Alone, Candidate, Ground, Holder

_PACKAGING = threading.Lock()  # MLflow silences warnings for the whole process while it writes a model
PAIRS, PAIR_COLUMNS = 24, 8  # samples beside their nearest training images in the picture; images a row


def run(project: Project, name: str | None = None) -> None:
    """Write results/gates/<name>.json and <name>-copies.png for every model that is no baseline, or for one recipe.

    Raises:
        UserError: something that a gate looks at is missing, or a gate cannot be asked.
    """
    from genforge.tracking import runs as tracking

    if name is not None:
        project.recipe(name)  # or a message with the nearest name
    names = [name] if name is not None else [one for one in project.config.recipes if not _is_baseline(project, one)]
    ground = open_ground(project)
    with tracking.run(project.root, kind="gates", name=name or "") as record, replacing_folder(project.gates) as folder:
        if name is not None:
            _keep_others(project, folder, name)
        for one, candidate, verdict in _looked_at(project, names, ground):
            write_json(folder / f"{one}.json", verdict)
            draw_pairs(candidate, ground, folder / f"{one}-copies.png")
            record.tags({f"gate.{one}.{entry['name']}": _mark(entry) for entry in verdict["gates"]})
            record.artifact(folder / f"{one}-copies.png")
            say(f"{one}: {in_short(verdict)}")


def _looked_at(project: Project, names: Sequence[str], ground: Ground) -> Iterator[tuple[str, Candidate, Any]]:
    """Each model with its verdict. Several at once: most of the time goes into processes that each draw alone, and
    nothing else of a pipeline can run beside this step."""

    def verdict(candidate: Candidate) -> dict[str, Any]:
        return look_at(project, candidate, ground)

    candidates = [open_candidate(project, one, ground) for one in names]
    with ThreadPoolExecutor(cores()) as pool:
        yield from zip(names, candidates, pool.map(verdict, candidates), strict=True)


def look_at(project: Project, candidate: Candidate, ground: Ground) -> dict[str, Any]:
    """What the gates that look at a model alone find."""
    gates = build_gates(project.config.gates)
    entries = [entry(name, gate, gate.check(candidate, ground)) for name, gate in gates.items() if not gate.compares]
    return {
        "model": candidate.name,
        "weights": digest(project.model(candidate.name)),
        "protocol_name": read_json(project.evaluation(candidate.name))["protocol_name"],
        "passed": all(found["passed"] for found in entries),
        "gates": entries,
    }


def entry(name: str, gate: Any, finding: Any) -> dict[str, Any]:
    """A gate's finding as it is kept: with the gate's settings and the reason for it."""
    return {
        "name": name,
        "passed": finding.passed,
        "words": finding.words,
        "reason": gate.settings.reason,
        "settings": _settings(gate),
        "evidence": finding.evidence,
    }


def _settings(gate: Any) -> dict[str, Any]:
    """What a gate's finding hangs on: not the reason why it is asked."""
    return dict(gate.settings.model_dump(mode="json", exclude={"reason"}))


class Comparisons:
    """The gates that set a model against the holder of an alias, as the step `register` asks them.

    Args:
        draw: gives images from a registered version's number, a count and a seed, uint8 (n, height, width, channels).
    """

    def __init__(self, project: Project, draw: Callable[[int, int, int], np.ndarray]) -> None:
        self.project, self.draw = project, draw
        self.ground = cache(lambda: open_ground(project))
        self.candidate = cache(lambda name: open_candidate(project, name, self.ground()))
        self._seen: dict[int, list[Features]] = {}

    def own(self, name: str) -> dict[str, Any]:
        """What the stage `gates` found of a recipe's model.

        Raises:
            UserError: nothing, or of other weights.
        """
        return own_verdict(self.project, name)

    def verdict(self, name: str, holder: tuple[int, str] | None, compared: bool) -> dict[str, Any]:
        """Every gate between a recipe's model and an alias.

        Args:
            holder: number and recipe of the version that holds the alias and can be judged; None for nobody.
            compared: whether there is anything to compare; if not, only what the model is by itself is told.
        """
        own, gates = self.own(name), build_gates(self.project.config.gates)
        entries = {found["name"]: found for found in own["gates"]}
        if compared and own["passed"]:  # what fails by itself need not be compared
            other = None if holder is None else self._holder(*holder)
            for gate_name, gate in gates.items():
                if gate.compares:
                    finding = gate.check(self.candidate(name), self.ground(), other)
                    entries[gate_name] = entry(gate_name, gate, finding)
        ordered = [entries[gate_name] for gate_name in gates if gate_name in entries]
        return {
            **own,
            "holder": None if holder is None else f"version {holder[0]} ({holder[1]})",
            "passed": all(found["passed"] for found in ordered),
            "gates": ordered,
        }

    def _holder(self, number: int, recipe: str) -> Holder:
        from genforge.evaluation.gates.gate import Holder

        if number not in self._seen:
            settings = self.project.config.evaluation
            images = [self.draw(number, settings.images, seed) for seed in settings.seeds]
            self._seen[number] = [self.ground().extractor.features(one, settings.batch_size) for one in images]
        return Holder(f"version {number} ({recipe})", self._seen[number])


def open_ground(project: Project) -> Ground:
    """The data and the judge's eyes."""
    from genforge.data.loading import Prepared
    from genforge.evaluation.fidelity import Judge
    from genforge.evaluation.gates.gate import Ground

    settings = project.config.evaluation
    judge = Judge.open(project.extractor, project.prepared, project.device, settings.batch_size)
    prepared = Prepared.open(project.prepared)
    return Ground(
        root=project.root,
        extractor=judge.extractor,
        reference=judge.reference,
        training=prepared.images("train"),
        held_out=np.asarray(prepared.images("test")),
        classes=prepared.classes,
        training_labels=prepared.labels("train"),
        held_out_labels=prepared.labels("test"),
        metric=project.config.registry.metric,
        batch_size=settings.batch_size,
    )


def open_candidate(project: Project, name: str, ground: Ground) -> Candidate:
    """A trained recipe with its samples and what was measured of it.

    Raises:
        UserError: it was not trained, sampled or evaluated.
    """
    from genforge.evaluation.gates.gate import Candidate

    settings, folder = project.config.evaluation, project.model(name)
    card, judged = read_json(project.samples(name) / "card.json"), read_json(project.evaluation(name))
    weights = folder / "weights.safetensors"
    return Candidate(
        name=name,
        images=[read_array(project.samples(name) / f"seed-{seed}.npy") for seed in settings.seeds],
        look=lambda images: ground.extractor.features(images, settings.batch_size),
        numbers={key: found["mean"] for key, found in judged["metrics"].items()},
        tensors=lambda: _tensors(weights),
        images_per_second=card["images_per_second"],
        megabytes=weights.stat().st_size / 1e6,
        alone=lambda count: _alone(folder, count, settings.seeds[0]),
    )


def draw_pairs(candidate: Candidate, ground: Ground, path: Path) -> None:
    """The picture of the samples that look most like copies, each beside its nearest training image."""
    from genforge import scatter
    from genforge.evaluation.memorization import nearest, pairs
    from genforge.pictures import POINTS_TO_SEE, grid, save_png

    found = nearest(candidate.all_seen.features, ground.reference.features)
    both = pairs(candidate.all_images, ground.training, found, PAIRS)
    if both.dtype == np.uint8:
        save_png(path, grid(both, PAIR_COLUMNS))
    else:
        training = scatter.scatter(ground.training[:POINTS_TO_SEE])
        worst = scatter.scatter(both, np.arange(len(both)) % 2)
        titles = ["training points", f"{PAIRS} samples (blue) on training points (orange)"]
        save_png(path, scatter.row([training, worst], titles))


def own_verdict(project: Project, name: str) -> dict[str, Any]:
    """What the stage `gates` found of a recipe's model as it is now.

    Raises:
        UserError: nothing, or of other weights, or by other gates than params.yaml has now.
    """
    path = project.gates / f"{name}.json"
    kept = read_json(path)
    other = "" if kept["weights"] == digest(project.model(name)) else f"other weights than {project.model(name)} holds"
    asked = {found["name"]: found["settings"] for found in kept["gates"]}
    for gate_name, gate in build_gates(project.config.gates).items():
        if not gate.compares and asked.get(gate_name) != _settings(gate):
            other = other or f"other gates than params.yaml has now ({gate_name})"
    if other:
        raise UserError(f"{path} is about {other}; run `genforge step gates`, or `dvc repro`")
    return dict(kept)


def kept_verdict(project: Project, model: str) -> dict[str, Any]:
    """The verdict on a recipe of params.yaml, or on a registered NAME@ALIAS: why the alias moved or stayed.

    Returns:
        model, passed, gates (name, passed, words, reason, settings, evidence each) and aliases: what became of it where
        the model was offered for one, by alias.
    """
    name, _, alias = model.partition("@")
    if alias:
        if name != project.config.data.name:
            raise UserError(f"this project's model is called {project.config.data.name!r}, not {name!r}")
        path = project.verdicts / f"{alias}.json"
        if not path.is_file():
            known = ", ".join(sorted(found.stem for found in project.verdicts.glob("*.json"))) or "none"
            raise UserError(f"no verdict on alias {alias!r} is kept; there are: {known} (`genforge step register`)")
        return dict(read_json(path))
    if _is_baseline(project, name) and not (project.gates / f"{name}.json").is_file():
        raise UserError(f"{name} is a baseline: it is there to be beaten, holds no alias, and no gate is asked of it")
    verdict = own_verdict(project, name)
    offered = [read_json(path) for path in sorted(project.verdicts.glob("*.json"))]
    verdict["aliases"] = {
        one["alias"]: one for one in offered if one["model"] == name and one["weights"] == verdict["weights"]
    }
    return verdict


def explain(verdict: Mapping[str, Any]) -> str:
    """A verdict in words: what became of it, then a line a gate."""
    lines = [_headline(verdict), *_lines(verdict["gates"])]
    known = {found["name"] for found in verdict["gates"]}
    for alias, one in verdict.get("aliases", {}).items():
        lines += ["", f"offered for @{alias}: {one['outcome']}"]
        lines += _lines([found for found in one["gates"] if found["name"] not in known])
    return "\n".join(lines)


def in_short(verdict: Mapping[str, Any]) -> str:
    """Passed, or which gates were not and why."""
    failed = [f"{found['name']}: {found['words']}" for found in verdict["gates"] if not found["passed"]]
    return f"does not pass {'; '.join(failed)}" if failed else f"passes all {len(verdict['gates'])} gates"


def _headline(verdict: Mapping[str, Any]) -> str:
    failed = [found["name"] for found in verdict["gates"] if not found["passed"]]
    said = f"does not pass {', '.join(failed)}" if failed else f"passes all {len(verdict['gates'])} gates"
    headline = f"{verdict['model']} {said} (protocol {verdict['protocol_name']})"
    return f"@{verdict['alias']}: {verdict['outcome']}\n{headline}" if "alias" in verdict else headline


def _lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  {_mark(found):6} {found['name']}: {found['words']}\n         because {found['reason']}" for found in entries
    ]


def _mark(found: Mapping[str, Any]) -> str:
    return "passed" if found["passed"] else "FAILED"


def _is_baseline(project: Project, name: str) -> bool:
    return project.recipe(name).family == BASELINE


def _keep_others(project: Project, folder: Path, name: str) -> None:
    """What is known of the other recipes, into the folder that takes the place of results/gates."""
    import shutil

    for path in project.gates.glob("*") if project.gates.is_dir() else ():
        if path.name not in (f"{name}.json", f"{name}-copies.png"):
            shutil.copyfile(path, folder / path.name)


def _tensors(weights: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    return {name: tensor.float().numpy() for name, tensor in load_file(weights).items()}


def _alone(folder: Path, count: int, seed: int) -> Alone:
    from genforge.registry.clean_process import draw_alone
    from genforge.registry.packaging import package

    with tempfile.TemporaryDirectory(prefix="genforge-gates-") as scratch:
        with _PACKAGING:
            package(folder, Path(scratch, "model"))
        return draw_alone(Path(scratch, "model"), count, seed, os.environ)
