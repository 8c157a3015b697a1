"""What a campaign may not lose. Each check gives a line for everything that is not as it should be."""

from __future__ import annotations

import csv
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tiny_project import TRIALS, environment

from genforge.files import digest_file, read_json
from genforge.tracking import mlflow_store
from genforge.tracking.run_log import RunLog, all_runs

TEMPORARY = (
    *(f"{folder}/**/.*.{end}" for folder in ("results", "data", ".genforge", ".dvc") for end in ("tmp", "old")),
    ".*.tmp*",
    ".genforge/*.wake",
)


@dataclass(frozen=True)
class Field:
    """Where a campaign was. reference: the same project, never interrupted. more: environment of its commands."""

    project: Path
    reference: Path
    more: dict[str, str]


def same_results(field: Field) -> list[str]:
    """Weights, drawn images and judgements have the same bits as those of the uninterrupted run."""
    lost = []
    patterns = ("models/*/weights.safetensors", "samples/*/*.npy", "evaluations/*.json")
    for pattern in patterns:
        for path in sorted((field.reference / "results").glob(pattern)):
            name = path.relative_to(field.reference)
            mine = field.project / name
            if not mine.is_file():
                lost.append(f"{name} is missing")
            elif digest_file(mine) != digest_file(path):
                lost.append(f"{name} differs from the uninterrupted run's")
    return lost


def whole_searches(field: Field) -> list[str]:
    """As many trials as asked, all with the value of the uninterrupted run, none still running."""
    lost = []
    for path in sorted((field.reference / "results" / "search").glob("*/trials.csv")):
        name = path.parent.name
        asked, found = _trials(path), _trials(field.project / "results" / "search" / name / "trials.csv")
        if len(found) != TRIALS:
            lost.append(f"the search of {name} has {len(found)} trials instead of {TRIALS}")
        for number, row in found.items():
            if (row["state"], row["value"]) != (asked[number]["state"], asked[number]["value"]):
                was = f"{row['state']} {row['value']} {row['reason']}"
                lost.append(f"trial {number} of {name}: {was}, but {asked[number]['value']} uninterrupted")
        running = sum(_running(journal) for journal in (field.project / ".genforge" / "search" / name).glob("*"))
        if running:
            lost.append(f"{running} trials of {name} are RUNNING")
    return lost


def _trials(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open() as file:
        return {row["number"]: row for row in csv.DictReader(file)}


def _running(folder: Path) -> int:
    """Trials of the journal in `folder` that nobody has ended."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    journal = folder / "journal.log"
    if not journal.is_file():
        return 0
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    states = [trial.state for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    return states.count(optuna.trial.TrialState.RUNNING)


def mlflow_has_everything(field: Field) -> list[str]:
    """A run for each log with the log's end, and every point exactly once."""
    from genforge.tracking.runs import upload_all

    lost = []
    left = upload_all(field.project, patience=60.0).left
    lost += [f"run {run} cannot be sent: {reason}" for run, reason in left.items()]
    client = mlflow_store.connect(field.project)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for log in all_runs(field.project):
        if log.status() is None:
            lost.append(f"the log of run {log.id} has no end")
        runs = client.search_runs(experiments, f"tags.`genforge.run` = '{log.id}'")
        if len(runs) != 1:
            lost.append(f"MLflow has run {log.id} {len(runs)} times")
            continue
        info = runs[0].info
        if info.status != log.status():
            lost.append(f"run {log.id} is {info.status} in MLflow and {log.status()} in its log")
        said = _points(log)
        has: Counter[tuple[str, int, int, str]] = Counter()
        for key in {key for key, *_ in said}:
            history = client.get_metric_history(info.run_id, key)
            has.update((key, point.step, point.timestamp, str(float(point.value))) for point in history)
        if missing := said - has:
            lost.append(f"MLflow lacks {missing.total()} points of run {log.id}, such as {next(iter(missing))}")
        if spare := has - said:
            lost.append(f"MLflow has {spare.total()} points of run {log.id} too many, such as {next(iter(spare))}")
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'"):
        lost.append(f"run {run.info.run_name} is RUNNING in MLflow")
    return lost


def _points(log: RunLog) -> Counter[tuple[str, int, int, str]]:
    points: Counter[tuple[str, int, int, str]] = Counter()
    for event in log.read():
        for key, value in event.values["values"].items() if event.kind == "metrics" else ():
            points[key, event.values["step"], event.time, str(float(value))] += 1
    return points


def curves_are_whole(field: Field) -> list[str]:
    """The training curves that DVC keeps are those of the uninterrupted run, whatever the speed was."""
    lost = []
    for path in sorted((field.reference / "results" / "curves").glob("*.csv")):
        mine = field.project / "results" / "curves" / path.name
        if not mine.is_file() or _curve(mine) != _curve(path):
            lost.append(f"the curve results/curves/{path.name} differs from the uninterrupted run's")
    return lost


def _curve(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{key: value for key, value in row.items() if "per_second" not in key} for row in csv.DictReader(file)]


def dvc_is_up_to_date(field: Field) -> list[str]:
    """`dvc status` has nothing to say."""
    said = _ask(field, "dvc", "status").stdout.strip()
    return [] if "up to date" in said else [f"dvc status says: {said}"]


def aliases_equal_their_histories(field: Field) -> list[str]:
    """Each alias is where the last entry of its history says, and each entry begins where the one before ended."""
    from genforge.registry.registry import Registry

    lost = []
    registered = read_json(field.project / "results" / "registered.json")
    registry = Registry(field.project, registered["model"])
    aliases = registry.aliases()
    histories = {alias: registry.history(alias) for alias in aliases}
    for alias, moves in histories.items():
        if not moves or moves[-1].after != aliases[alias]:
            last = moves[-1].after if moves else "nothing"
            lost.append(f"{alias} is version {aliases[alias]}, but its history ends with {last}")
        for before, after in pairwise(moves):
            if before.after != after.before:
                lost.append(f"the history of {alias} jumps from {before.after} to {after.before}")
    if aliases != registered["aliases"]:
        lost.append(f"results/registered.json says {registered['aliases']}, the registry {aliases}")
    return lost


def versions_draw(field: Field) -> list[str]:
    """The model of every registered version is there, can be loaded, and draws images."""
    from genforge.registry.registry import Registry, draw

    registered = read_json(field.project / "results" / "registered.json")
    registry = Registry(field.project, registered["model"])
    lost = []
    for version in registered["versions"].values():
        try:
            source = registry.client.get_model_version(registry.name, str(version["version"])).source
            registry.client.get_logged_model(str(source).removeprefix("models:/"))  # one in the bin still loads
            draw(registry.load(version["version"], "cpu"), 2, 0)
        except Exception as error:  # whatever MLflow raises for a model whose files are gone
            lost.append(
                f"version {version['version']} ({version['family']}) draws nothing: {type(error).__name__} {error}"
            )
    return lost


def doctor_finds_nothing(field: Field) -> list[str]:
    """After `genforge doctor --fix` the doctor is content."""
    done = _ask(field, "genforge", "doctor", "--json")
    return [] if done.returncode == 0 else [f"genforge doctor: {done.stdout.strip()} {done.stderr.strip()}"]


def no_temporary_files(field: Field) -> list[str]:
    """Nothing half written is left, neither in the project nor where the system keeps temporary files."""
    return [f"temporary: {path}" for path in temporary_files(field)]


def temporary_files(field: Field) -> list[Path]:
    """What is half written by its name, and what our programs have put where the system keeps temporary files."""
    found = [path for pattern in TEMPORARY for path in field.project.glob(pattern)]
    shared = Path(environment(field.project)["TMPDIR"])  # torch keeps a cache there for good, by design
    return sorted(found) + sorted(path for path in shared.iterdir() if path.name.startswith(("genforge", "tmp")))


def let_a_day_pass(field: Field) -> None:
    """Temporary files as a user finds them on the next morning: too old to be anybody's work."""
    yesterday = time.time() - 86400
    for path in temporary_files(field):
        for each in (path, *path.rglob("*")):
            os.utime(each, (yesterday, yesterday), follow_symlinks=False)


CHECKS: dict[str, Callable[[Field], list[str]]] = {
    "weights, images and judgements equal the uninterrupted run's": same_results,
    "training curves equal the uninterrupted run's": curves_are_whole,
    "searches have the trials asked for, none RUNNING": whole_searches,
    "MLflow has every run and every point exactly once, none RUNNING": mlflow_has_everything,
    "DVC says up to date": dvc_is_up_to_date,
    "each alias equals the last entry of its history": aliases_equal_their_histories,
    "the doctor finds nothing": doctor_finds_nothing,
    "no temporary files": no_temporary_files,
    "every registered version draws images": versions_draw,
}
RESULTS = (same_results, curves_are_whole, whole_searches)  # what can be looked at after each whole run


def _ask(field: Field, *command: str) -> subprocess.CompletedProcess[str]:
    own = environment(field.project, {**os.environ, **field.more})
    return subprocess.run(command, cwd=field.project, env=own, capture_output=True, text=True, timeout=900)
