"""Settings that do well on several data sets: the portfolio that a recipe's search begins with.

    python tests/benchmarks/portfolio.py gather RECIPE --data mnist --size 16 --files FOLDER --into trials.jsonl
        [--trials 60] [--seed 0] [--share SHARE] [--images 500] [--workers 4]
    python tests/benchmarks/portfolio.py choose RECIPE TRIALS... [--entries 3] [--held-out TRIALS ...]

`gather` trains trials of the length that a search gives them, with settings drawn at random from the recipe's space,
the same ones on all data sets; the first has the recipe's own. A line of JSON each. Those of another seed have other
settings and train from that seed; a file may hold both.

`choose` puts a Gaussian process through the logarithm of the FIDs of each file, draws values of the tried settings from
it (what it is not sure of, and the luck of a trial), and takes one after the other: that which, beside the recipe's own
settings and those taken already, lowers the best value most, in the mean over files and draws. Values are rounded to
two digits. For each held-out file (data that had no say) it tells which share of settings at random the recipe's own
and each entry beat, and with what chance the best of them beats the best of twelve trials at random, by that file's
process and the luck that it leaves to a trial.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import images
import numpy as np
import optuna
import yaml
from optuna.samplers import RandomSampler
from search import NAME, add_share, step_of
from simulated_search import Landscape, gather

from genforge.steps.project import Project

CANDIDATES, DRAWS = 1000, 200
RANDOM_TRIALS = 12


def prepare(arguments: argparse.Namespace) -> Path:
    """A project with these images, a judge and the recipe."""
    folder: Path = arguments.scratch / f"portfolio-{Path(arguments.data).name}-{arguments.size}-{arguments.recipe}"
    if (folder / "results" / "extractor").is_dir():
        return folder
    settings, place = images.source_of(arguments.data, arguments.size, arguments.files)
    if settings is None:
        raise SystemExit(f"{arguments.data} is not under {place}: name its folder with --files")
    folder.mkdir(parents=True, exist_ok=True)
    data = settings.model_dump(exclude_defaults=True, mode="json") | {"folder": str(Path(settings.folder).resolve())}
    parameters = {"seed": 0, "device": "cpu", "data": data, "recipes": {NAME: {"from": arguments.recipe}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    for step in ("ingest", "prepare", "resolve", "extractor"):
        step_of(folder, step)
    return folder


def train_from(folder: Path, seed: int) -> None:
    """Trials of the project train from this seed; its data and its judge stay what they are."""
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump({**parameters, "seed": seed}))


def choose(landscapes: list[Landscape], entries: int) -> list[tuple[dict[str, Any], float]]:
    """So many settings, best first, and by how many percent each lowers the best FID, in the geometric mean."""
    settings: list[dict[str, Any]] = [landscapes[0].defaults]
    for seen in (_rounded(each) for landscape in landscapes for each in landscape.settings_seen):
        if seen not in settings:
            settings.append(seen)
    places = np.array([landscapes[0].coordinates(each) for each in settings])
    random = np.random.default_rng(0)
    values = np.vstack([_drawn(landscape, places, random) for landscape in landscapes])  # (files x draws, settings)
    best, taken = values[:, 0], []
    for _ in range(entries):
        lowered = np.minimum(best[:, None], values)
        lowered[:, [settings.index(entry) for entry, _ in taken]] = np.inf  # the same settings have the same luck
        number = int(np.argmin(lowered.mean(axis=0)))
        taken.append((settings[number], 100.0 * -math.expm1(float((lowered[:, number] - best).mean()))))
        best = lowered[:, number]
    return taken


def _drawn(landscape: Landscape, places: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Logarithms of FIDs as trials at these places might have them, (draws, settings)."""
    mean, covariance = landscape.believed(places)
    luck = math.sqrt(landscape.noise) * landscape.spread * random.standard_normal((DRAWS, len(places)))
    return random.multivariate_normal(mean, covariance, DRAWS, method="eigh") + luck


def _rounded(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.2g}") if isinstance(value, float) else value for key, value in settings.items()}


def held_out(landscape: Landscape, portfolio: list[dict[str, Any]]) -> dict[str, Any]:
    """How the entries do on data that had no say."""
    study = optuna.create_study(sampler=RandomSampler(seed=2))
    drawn = [landscape.settings(study.ask()) for _ in range(CANDIDATES)]
    places = np.array([landscape.coordinates(each) for each in [landscape.defaults, *portfolio, *drawn]])
    known, random = 1 + len(portfolio), np.random.default_rng(0)
    means, values = landscape.believed(places)[0], _drawn(landscape, places, random)
    theirs = np.array([values[:, known + random.choice(CANDIDATES, RANDOM_TRIALS)].min(axis=1) for _ in range(50)])
    beaten = [round(float((means[number] < means[known:]).mean()), 3) for number in range(known)]
    won = float((values[:, :known].min(axis=1) < theirs).mean())
    return {"own_beats": beaten[0], "entries_beat": beaten[1:], "beats_best_of_twelve": round(won, 3)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    gathering = parts.add_parser("gather", help="real trials with random settings")
    gathering.add_argument("recipe")
    images.add_arguments(gathering)
    gathering.add_argument("--trials", type=int, default=60)
    gathering.add_argument("--seed", type=int, default=0, help="of the settings and of the training")
    add_share(gathering)
    gathering.add_argument("--images", type=int, default=500, help="for each value")
    gathering.add_argument("--workers", type=int, default=4, help="processes, of a thread each")
    gathering.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)
    gathering.add_argument("--into", type=Path, required=True)
    choosing = parts.add_parser("choose", help="settings that do well on all of several data sets")
    choosing.add_argument("recipe")
    choosing.add_argument("files", type=Path, nargs="+", help="that `gather` wrote")
    choosing.add_argument("--entries", type=int, default=3)
    choosing.add_argument("--held-out", type=Path, nargs="*", default=[])
    arguments = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if arguments.part == "choose":
        portfolio = choose([Landscape(arguments.recipe, file) for file in arguments.files], arguments.entries)
        for entry, gain in portfolio:
            print(json.dumps({"entry": entry, "lowers_best_by_percent": round(gain, 1)}))
        for file in arguments.held_out:
            told = held_out(Landscape(arguments.recipe, file), [entry for entry, _ in portfolio])
            print(json.dumps({"held_out": file.name, **told}))
    elif arguments.worker is None:
        train_from(prepare(arguments), arguments.seed)
        command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        crew = [
            subprocess.Popen([*command, "--worker", str(number)], env=environment)
            for number in range(arguments.workers)
        ]
        ends = [worker.wait() for worker in crew]
        if any(ends):
            raise SystemExit(f"a worker failed (exit statuses {ends})")
    else:
        kept = {"trials": arguments.trials, "images": arguments.images, "share": arguments.share}
        part = (arguments.worker, arguments.workers)
        gather(Project.load(prepare(arguments)), arguments.into, seed=arguments.seed, looks=1, part=part, **kept)


if __name__ == "__main__":
    main()
