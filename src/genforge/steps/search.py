"""Search: look for better settings of one recipe. Training uses what was found.

A trial is a short training run whose images are judged a few times on the way, by the same judge and the same metric
direction as at the end. A recipe without a search space costs nothing.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genforge.catalog import Recipe, lookup, read_library
from genforge.cores import cores
from genforge.files import digest_file, digest_json, replacing, replacing_folder, write_json
from genforge.imports import code_digest
from genforge.progress import say
from genforge.randomness import derive
from genforge.settings import UserError
from genforge.steps.project import Project

if TYPE_CHECKING:
    from genforge.search.crew import Crew
    from genforge.search.plan import Found, Plan

TRIAL = "genforge.steps.search_trial:open_trials"


def run(project: Project, name: str | None = None) -> None:
    """Write results/search/<name>: best.json, trials.csv, and pictures where there were trials.

    A search that was interrupted goes on from what it has, and one that is finished is not done again: its state is
    under .genforge/search/<name>, by the digest of all that its values depend on.
    """
    if name is None:
        raise UserError("step search: name a recipe, such as `genforge step search gan`")
    recipe = project.recipe(name)
    settings, metric = project.config.search, project.config.registry.metric
    if not recipe.search.space or settings.trials == 0:
        if settings.trials:
            _say_why_nothing_is_searched(name, recipe)
        with replacing_folder(project.search(name)) as folder:
            write_json(folder / "best.json", {"settings": {}, "value": None, "metric": metric, "trials": 0})
        return

    from genforge.search.crew import Crew

    with Crew(TRIAL, threads=_threads(settings.workers)) as crew:  # imports beside us
        _search(project, name, recipe, crew)


def _say_why_nothing_is_searched(name: str, recipe: Recipe) -> None:
    """Nothing is said of a recipe that the library has no space for, such as a baseline."""
    space = (read_library(recipe.origin).get("search") or {}).get("space")
    if space:
        say(
            f"search of {name}: nothing to turn, for params.yaml states, or takes out, all that a search of "
            f"{recipe.origin} turns ({', '.join(space)}); give ranges in recipes.{name}.search.space to search them"
        )


def _search(project: Project, name: str, recipe: Recipe, crew: Crew) -> None:
    from genforge.evaluation.card import card_for
    from genforge.search.quick_import import REDIS, without
    from genforge.tracking import runs as tracking

    with without(REDIS):
        from genforge.search.run import run_search

    settings, metric = project.config.search, project.config.registry.metric
    state = project.state / "search" / name / _digest(project, recipe)
    card_for(project.extractor, project.prepared)  # a search without its judge is refused before anyone works
    with tracking.run(project.root, kind="search", name=name, parameters=settings.model_dump()) as record:
        plan = _plan(project, recipe, name, record.id)
        found = run_search(plan, state, workers=settings.workers, crew=crew)
        from genforge.steps.search_trial import protocol_of  # torch, which we have no use for before

        protocol = protocol_of(project, recipe)
        record.tags({"protocol": protocol})  # as each worker does when it begins; a finished search has none
        _say_what_was_found(plan, found)
        with replacing_folder(project.search(name)) as folder:
            _write(folder, name, plan, found, protocol)
        record.artifact(project.search(name), "search")
        assert found.best.value is not None
        record.metrics(0, {f"best_{metric}": found.best.value})
    _forget_others(state)


def _forget_others(state: Path) -> None:
    """Remove the state of searches of this recipe over other inputs."""
    for other in state.parent.iterdir():
        if other != state:
            shutil.rmtree(other)


def check_defaults(name: str, recipe: Recipe) -> None:
    """Raises UserError when the recipe's own settings, which the first trial takes, lie outside of its space."""
    from genforge.search.plan import check_dimension

    for key, value in defaults_of(name, recipe).items():
        check_dimension(f"recipes.{name}.search.space.{key}", recipe.search.space[key], value)


def defaults_of(name: str, recipe: Recipe) -> dict[str, Any]:
    """The recipe's own value of each setting in its space."""
    values, defaults = recipe.model_dump(), {}
    for key in recipe.search.space:
        holder, leaf = lookup(values, key, f"recipes.{name}.search.space")
        defaults[key] = holder[leaf]
    return defaults


def trial_steps(project: Project, recipe: Recipe) -> int:
    """The length of a trial, in training steps."""
    settings = project.config.search
    share = recipe.trial_share if settings.steps_share is None else settings.steps_share
    return max(settings.reports, round(share * recipe.training["steps"]))


def _plan(project: Project, recipe: Recipe, name: str, parent: str) -> Plan:
    from genforge.evaluation.metrics import METRICS
    from genforge.search.plan import Plan

    settings, metric = project.config.search, project.config.registry.metric
    return Plan(
        name=name,
        space=recipe.search.space,
        defaults=defaults_of(name, recipe),
        portfolio=[dict(entry) for entry in recipe.search.portfolio],
        objective=TRIAL,
        arguments={
            "root": str(project.root.resolve()),
            "recipe": name,
            "metric": metric,
            "steps": trial_steps(project, recipe),
            "reports": settings.reports,
            "seed": derive(project.config.seed, "search", name),
            "parent": parent,
        },
        measure=metric.upper(),
        better=METRICS[metric].better,
        trials=settings.trials,
        seed=project.config.seed if settings.seed is None else settings.seed,
        method=settings.method,
        lease=settings.lease,
    )


def _digest(project: Project, recipe: Recipe) -> str:
    """Of all that a trial's value depends on, its own settings aside. How many trials and workers there are is not."""
    from genforge.data.prepared import Prepared

    settings = project.config.search
    extractor = sorted(path for path in project.extractor.iterdir() if path.is_file())
    return digest_json(
        {
            "recipe": recipe.model_dump(mode="json", exclude={"density"}),
            "code": recipe.code_digest(),
            "trial_code": code_digest([TRIAL.partition(":")[0]]),  # the judge's and the data's with it
            "extractor": {path.name: digest_file(path) for path in extractor},
            "data": Prepared.open(project.prepared).digest,
            "horizontal_flip": project.config.data.horizontal_flip,
            "seed": project.config.seed,
            "device": project.device_of_workers,
            "metric": project.config.registry.metric,
            "trial": settings.model_dump(include={"reports", "images", "method", "seed"}),
            "steps": trial_steps(project, recipe),
        }
    )


def _threads(workers: int) -> int:
    """CPU threads of each worker: an equal share of what this step may take."""
    return max(1, cores() // workers)


def _write(folder: Path, name: str, plan: Plan, found: Found, protocol: str) -> None:
    from genforge.report import figures

    settings = dict(found.best.settings)
    write_json(
        folder / "best.json",
        {
            "settings": settings,
            "value": found.best.value,
            "metric": plan.arguments["metric"],
            "protocol": protocol,
            "trials": len(found.rows),
            "trial": found.best.number,
            "defaults": plan.defaults,
            "default_value": found.rows[0].value,
            "importances": found.importances,
            "note": found.note,
        },
    )
    write_trials(folder / "trials.csv", found, sorted(plan.space))
    values = {row.number: row.value for row in found.rows if row.state == "complete" and row.value is not None}
    pruned = {row.number: row.value for row in found.rows if row.state == "pruned" and row.value is not None}
    figures.search_history(folder / "history.png", values, pruned, plan.better, str(plan.arguments["metric"]).upper())
    if found.importances:
        figures.importances(folder / "importance.png", found.importances)


def write_trials(path: Path, found: Found, keys: list[str]) -> None:
    """A row a trial: number, state, value, each setting, seconds, reason."""
    with replacing(path, "w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["number", "state", "value", *keys, "seconds", "reason"])
        for row in found.rows:
            value = "" if row.value is None else repr(row.value)
            settings = [row.settings.get(key, "") for key in keys]
            table.writerow([row.number, row.state, value, *settings, f"{row.seconds:.2f}", row.reason])


def _say_what_was_found(plan: Plan, found: Found) -> None:
    from genforge.evaluation.metrics import METRICS

    metric, best, default = METRICS[plan.arguments["metric"]], found.best, found.rows[0]
    assert best.value is not None
    value = f"{metric.title} {metric.show(best.value)}"
    if best.number == 0:
        say(f"search of {plan.name}: the recipe's own settings were best of {plan.trials} ({value})")
        return
    own = metric.show(default.value) if default.value is not None else "failed"
    changed = ", ".join(f"{key} {_short(value)}" for key, value in best.settings.items())
    say(f"search of {plan.name}: from {own} to {value} in trial {best.number} of {plan.trials}: {changed}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
