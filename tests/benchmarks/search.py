"""How soon our search finds what plain Optuna finds: no pruning, one worker, the same space, trials of the same length.

    python tests/benchmarks/search.py [--recipe hinge-sngan] [--share SHARE] [--trials 12] [--workers 4] [--seeds 3]
        [--trainings 4]

Plain Optuna makes its trials one after the other on all cores, each judged at its end; counted is the time until its
best trial is done. Ours (`genforge step search`) counts until a trial is as good. Both count from the start of their
process. Digits, which every installation has.

When the best trial comes is luck on both sides, so every search of plain Optuna is compared with every one of ours
whose trials train from the same seed: nine pairs of three searches of each side, for each of four such seeds. What
settings can reach with one seed and with another differs by more than good settings and middling ones do, so that
searches of different ones do not compare. A recipe's portfolio is the same in all searches of one such seed, and so is
what its trials come to there: luck on which all nine pairs hang.

They take turns, since a machine that others use is not as fast now as it was a minute ago: after each search of plain
Optuna comes one of ours, which is given as long as that one took for all of its trials. One line of JSON a search, then
one with the median ratio; where ours was not as good by then, the ratio is 0 (and its time, in the median of times, as
long as it was given).
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from images import SCRATCH
from laps import undecided

if TYPE_CHECKING:  # each side of the comparison imports for itself, and its time counts
    import optuna

NAME = "searched"
LONGER = 4  # ours may make so many times the trials
TO_SEND = 300.0  # seconds; what a search has tracked is sent within a few


@dataclass(frozen=True)
class Search:
    """What both sides search: a recipe, of whose steps `share` are a trial, all trained from the seed `training`."""

    folder: Path
    recipe: str
    share: float | None = None  # what its objective asks for
    trials: int = 12  # of plain Optuna
    workers: int = 4  # of ours
    training: int = 0

    def prepare(self, seed: int) -> None:
        """A project whose data and judge are ready, and whose search makes the suggestions of `seed`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        limits = {"trials": LONGER * self.trials, "workers": self.workers, "steps_share": self.share, "seed": seed}
        parameters = {
            "seed": 0,
            "device": "cpu",
            "data": {"name": "digits", "source": "digits"},
            "search": limits,
            "recipes": {NAME: {"from": self.recipe}},
        }
        (self.folder / "params.yaml").write_text(yaml.safe_dump(parameters))
        for step, place in (("ingest", "data/raw"), ("prepare", "data/prepared"), ("extractor", "results/extractor")):
            if not (self.folder / place).is_dir():
                step_of(self.folder, step)
        step_of(self.folder, "resolve")
        parameters["seed"] = self.training  # of the trials; the data and the judge stay what they are
        (self.folder / "params.yaml").write_text(yaml.safe_dump(parameters))


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
    from genforge.steps.search import trial_steps
    from genforge.steps.search_trial import images_of
    from genforge.training.loop import train
    from genforge.training.settings import TrainingSettings

    here = Project.load(folder)
    recipe, prepared = here.recipe(NAME), Prepared.open(here.prepared)
    of_training = derive(here.config.seed, "search", NAME)
    data, judge = DeviceData(prepared, seed=of_training), Judge.open(here.extractor, here.prepared)
    steps, images = trial_steps(here, recipe), images_of(here, recipe)

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


Trials = list[tuple[float, float]]  # of each complete one the seconds until it was done, and its value


def time_plain(search: Search, seed: int) -> Trials:
    """All of its trials, one after the other."""
    asked = ["--plain", str(search.folder), "--trials", str(search.trials), "--seed", str(seed)]
    command = [sys.executable, __file__, *asked]
    environment = {**undecided(), "BEGAN": str(time.time())}  # one worker has all cores
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [(trial["seconds"], trial["value"]) for trial in found]


def time_ours(folder: Path, given: float) -> Trials:
    """Those that were done within so many seconds, in that order. What sends runs to MLflow outlives a search: it is
    waited for, so that nothing of ours is at work in the other side's turn."""
    from genforge.search.storage import open_journal
    from genforge.tracking.uploader import uploader_lock

    shutil.rmtree(folder / ".genforge" / "search", ignore_errors=True)
    command = [sys.executable, "-m", "genforge.cli", "step", "search", NAME]
    began = time.time()
    worker = subprocess.Popen(command, cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(given)
        found = []
        for journal in (folder / ".genforge" / "search" / NAME).glob("*/journal.log"):
            storage = open_journal(journal)
            for study in storage.get_all_studies():
                for trial in storage.get_all_trials(study._study_id, deepcopy=False):
                    if trial.state.name == "COMPLETE" and trial.value is not None:
                        assert trial.datetime_complete is not None
                        found.append((trial.datetime_complete.timestamp() - began, trial.value))
        return sorted(found)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGTERM)
        worker.wait()
        with uploader_lock(folder).acquire(timeout=TO_SEND):
            pass


def seconds_to(wanted: float, trials: Trials) -> float:
    """Until one was as good; infinite where none was."""
    return min((seconds for seconds, value in trials if value <= wanted), default=math.inf)


@dataclass(frozen=True)
class Pair:
    """A search of each side. theirs: seconds until plain Optuna's best trial was done. ours: until ours was as good, or
    infinity. given: how long ours was given."""

    theirs: float
    ours: float
    given: float


def compare(search: Search, seeds: int) -> list[Pair]:
    """So many searches of each side, and all pairs of them."""
    best: Trials = []  # of each of plain Optuna's
    ours: list[tuple[float, Trials]] = []  # what each was given, and what it found
    for seed in range(seeds):
        search.prepare(seed)
        theirs = time_plain(search, seed)
        best.append(min(theirs, key=lambda trial: trial[1]))
        given = theirs[-1][0]
        ours.append((given, time_ours(search.folder, given)))
        (seconds, value), trials = best[-1], ours[-1][1]
        said = {"training": search.training, "seed": seed, "fid": round(value, 3), "plain_seconds": round(seconds, 1)}
        until = seconds_to(value, trials)
        our_seconds = None if math.isinf(until) else round(until, 1)
        print(json.dumps({**said, "our_seconds": our_seconds, "our_trials": len(trials)}), flush=True)
    return [Pair(seconds, seconds_to(value, trials), given) for given, trials in ours for seconds, value in best]


def add_share(parser: argparse.ArgumentParser) -> None:
    """How long a trial is."""
    said = "of the recipe's steps; left out: what its objective asks for"
    parser.add_argument("--share", type=float, default=None, help=said)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="hinge-sngan")
    add_share(parser)
    parser.add_argument("--trials", type=int, default=12, help="of plain Optuna")
    parser.add_argument("--workers", type=int, default=4, help="of ours")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each side, for each training's seed")
    parser.add_argument("--trainings", type=int, default=4, help="seeds that trials train from")
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    parser.add_argument("--plain", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.plain is not None:
        plain(arguments.plain, arguments.trials, arguments.seed)
        return
    pairs: list[Pair] = []
    for training in range(arguments.trainings):
        folder = arguments.scratch / f"search-{arguments.recipe}"
        search = Search(folder, arguments.recipe, arguments.share, arguments.trials, arguments.workers, training)
        pairs += compare(search, arguments.seeds)
    ratios = [pair.theirs / pair.ours for pair in pairs]
    quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else 2 * ratios
    print(
        json.dumps(
            {
                "name": "search",
                "peer": "optuna",
                "workers": arguments.workers,
                "share": arguments.share,
                "pairs": len(pairs),
                "never": sum(math.isinf(pair.ours) for pair in pairs),
                "peer_s": round(statistics.median(pair.theirs for pair in pairs), 1),
                "ours_s": round(statistics.median(min(pair.ours, pair.given) for pair in pairs), 1),
                "ratio": round(statistics.median(ratios), 2),
                "quartiles": [round(ratio, 2) for ratio in quartiles],
                "spread": [round(min(ratios), 2), round(max(ratios), 2)],
            }
        )
    )


if __name__ == "__main__":
    main()
