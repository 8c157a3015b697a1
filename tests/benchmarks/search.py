"""How soon our search finds what plain Optuna finds: no pruning, one worker, the same space, trials of the same length.

    python tests/benchmarks/search.py [--recipe hinge-sngan] [--share 0.6] [--trials 12] [--workers 4] [--seeds 7]

Plain Optuna makes its trials one after the other on all cores, each judged at its end; counted is the time until its
best trial is done. Ours (`genforge step search`) counts until a trial is as good. Both count from the start of their
process. Digits, which every installation has.

When the best trial comes is luck on both sides, so every search of plain Optuna is compared with every one of ours: 49
pairs of seven seeds, whose median varies about half as much as that of seven. Ours begins when all of plain Optuna's
are done, and is stopped once it is as good as the best of them, or has taken as long as the slowest needed for its
own. One line of JSON a search, then one with the median ratio; where ours was not as good by then, the ratio is 0 (and
its time, in the median of times, as long as it was given).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from images import SCRATCH
from laps import undecided

if TYPE_CHECKING:  # each side of the comparison imports for itself, and its time counts
    import optuna

NAME = "searched"
POLLED = 0.25  # seconds; a trial says itself when it was done
LONGER = 4  # ours may make so many times the trials
SHARE = 0.2  # of the recipe's steps, as params.yaml has it


def project(folder: Path, recipe: str, trials: int, workers: int, seed: int, share: float = SHARE) -> None:
    """A project whose data and judge are ready; `share` of the recipe's steps are a trial."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {
        "seed": 0,
        "device": "cpu",
        "data": {"name": "digits", "source": "digits"},
        "search": {"trials": LONGER * trials, "workers": workers, "steps_share": share},
        "recipes": {NAME: {"from": recipe}},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    for step, place in (("ingest", "data/raw"), ("prepare", "data/prepared"), ("extractor", "results/extractor")):
        if not (folder / place).is_dir():
            step_of(folder, step)
    step_of(folder, "resolve")
    parameters["seed"] = seed  # of the search; the data and the judge stay what they are
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))


def step_of(folder: Path, *step: str) -> None:
    """Run a step in this project."""
    subprocess.run([sys.executable, "-m", "genforge.cli", "step", *step], cwd=folder, check=True)


def plain(folder: Path, trials: int, seed: int) -> None:
    """A study as Optuna's first page has it; prints the seconds since the process began and the value of each trial."""
    import optuna

    from genforge import catalog
    from genforge.data.loading import DeviceData, Prepared
    from genforge.evaluation.fidelity import Judge
    from genforge.models import Model
    from genforge.randomness import derive, seed_everything
    from genforge.search.suggestion import suggested
    from genforge.steps.project import Project
    from genforge.steps.search_trial import images_of
    from genforge.training.loop import train
    from genforge.training.settings import TrainingSettings

    here = Project.load(folder)
    recipe, settings, prepared = here.recipe(NAME), here.config.search, Prepared.open(here.prepared)
    of_training = derive(seed, "search", NAME)
    data, judge = DeviceData(prepared, seed=of_training), Judge.open(here.extractor, here.prepared)
    steps, images = round(settings.steps_share * recipe.training["steps"]), images_of(here, recipe)

    def objective(trial: optuna.Trial) -> float:
        chosen = {key: suggested(trial, key, dimension) for key, dimension in recipe.search.space.items()}
        changed = catalog.with_settings(recipe, {**chosen, "training.steps": steps}, "search")
        seed_everything(of_training)
        learned = catalog.build_objective(changed, prepared.shape, len(prepared.classes))
        train(learned, data, TrainingSettings.read(changed.training, "training"), seed=of_training)
        model = Model(learned.exported, catalog.build_sampler(changed.sampler), {})
        value = judge.score(model.draw(of_training, images), ["fid"])["fid"]
        print(json.dumps({"seconds": time.time() - float(os.environ["BEGAN"]), "value": value}), flush=True)
        return value

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)


def time_plain(folder: Path, trials: int, seed: int) -> tuple[float, float]:
    """Seconds until its best trial was done, and the value of that."""
    command = [sys.executable, __file__, "--plain", str(folder), "--trials", str(trials), "--first-seed", str(seed)]
    environment = {**undecided(), "BEGAN": str(time.time())}  # one worker has all cores
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    best = min(found, key=lambda trial: trial["value"])
    return best["seconds"], best["value"]


def time_ours(folder: Path, wanted: float, most_seconds: float) -> list[tuple[float, float]]:
    """Of each complete trial the seconds until it was done, and its value; until one is as good as wanted."""
    from genforge.search.storage import open_journal

    shutil.rmtree(folder / ".genforge" / "search", ignore_errors=True)
    command = [sys.executable, "-m", "genforge.cli", "step", "search", NAME]
    began = time.time()
    worker = subprocess.Popen(command, cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        while True:
            ended = worker.poll() is not None or time.time() - began > most_seconds
            found = []
            for journal in (folder / ".genforge" / "search" / NAME).glob("*/journal.log"):
                storage = open_journal(journal)
                for study in storage.get_all_studies():
                    for trial in storage.get_all_trials(study._study_id, deepcopy=False):
                        if trial.state.name == "COMPLETE" and trial.value is not None:
                            assert trial.datetime_complete is not None
                            found.append((trial.datetime_complete.timestamp() - began, trial.value))
            if ended or any(value <= wanted for _, value in found):
                return sorted(found)
            time.sleep(POLLED)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGTERM)
        worker.wait()


def seconds_to(wanted: float, trials: list[tuple[float, float]]) -> float:
    """Until one was as good; infinite where none was."""
    return min((seconds for seconds, value in trials if value <= wanted), default=math.inf)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="hinge-sngan")
    parser.add_argument("--share", type=float, default=0.6, help="of the recipe's steps, as a trial's length")
    parser.add_argument("--trials", type=int, default=12, help="of plain Optuna")
    parser.add_argument("--workers", type=int, default=4, help="of ours")
    parser.add_argument("--seeds", type=int, default=7, help="searches of each side")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    parser.add_argument("--plain", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.plain is not None:
        plain(arguments.plain, arguments.trials, arguments.first_seed)
        return
    folder = arguments.scratch / f"search-{arguments.recipe}"
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)

    def prepare(seed: int) -> None:
        project(folder, arguments.recipe, arguments.trials, arguments.workers, seed, arguments.share)

    theirs = []
    for seed in seeds:
        prepare(seed)
        theirs.append(time_plain(folder, arguments.trials, seed))
        seconds, value = theirs[-1]
        print(json.dumps({"seed": seed, "plain_seconds": round(seconds, 1), "fid": round(value, 3)}), flush=True)
    wanted, most_seconds = min(value for _, value in theirs), max(seconds for seconds, _ in theirs)
    ratios, taken = [], []
    for seed in seeds:
        prepare(seed)
        trials = time_ours(folder, wanted, most_seconds)
        ours = [seconds_to(value, trials) for _, value in theirs]
        ratios += [seconds / own for (seconds, _), own in zip(theirs, ours, strict=True)]
        taken += ours
        row = {"seed": seed, "seconds": [None if math.isinf(own) else round(own, 1) for own in ours]}
        print(json.dumps(row), flush=True)
    print(
        json.dumps(
            {
                "name": "search",
                "peer": "optuna",
                "workers": arguments.workers,
                "share": arguments.share,
                "pairs": len(ratios),
                "never": sum(math.isinf(own) for own in taken),
                "peer_s": round(statistics.median(seconds for seconds, _ in theirs), 1),
                "ours_s": round(statistics.median(min(own, most_seconds) for own in taken), 1),
                "ratio": round(statistics.median(ratios), 2),
                "quartiles": [round(ratio, 2) for ratio in statistics.quantiles(ratios, n=4)[::2]],
                "spread": [round(min(ratios), 2), round(max(ratios), 2)],
            }
        )
    )


if __name__ == "__main__":
    main()
