"""What a search can gain, by simulation: real trials with random settings become a function with noise, on which a
search costs nothing but its suggestions.

    python tests/benchmarks/simulated_search.py gather RECIPE --trials 64 --into trials.jsonl
    python tests/benchmarks/simulated_search.py search RECIPE trials.jsonl [--seeds 60] [--only "best settings"]

`gather` trains trials of the length that a search gives them, on digits, with settings drawn at random from the
recipe's space, and looks at each twelve times (the first has the recipe's own settings): a line of JSON each. `search`
puts a Gaussian process through the logarithm of their FIDs, and draws what it leaves unexplained from the trials
themselves, a whole curve at a time. Then Optuna's own samplers and pruner search that function, one worker against four
in simulated time, as search.py does in real time; beside them searches that know the best settings, which tell how much
suggestions could gain at most. One line of JSON a kind of search: the median ratio of times to the best FID that plain
Optuna finds, over all pairs of a search of each side (0 where ours never found it), how far that median would lie
elsewhere with other seeds of ours (the standard deviation, by the bootstrap), its quartiles, and the share of pairs
that never found it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from images import SCRATCH
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from search import LONGER, NAME, Search, add_share, seconds_to

from genforge import catalog
from genforge.data.loading import DeviceData, Prepared
from genforge.dimension import Method
from genforge.evaluation.fidelity import Judge
from genforge.models import Model
from genforge.randomness import derive, seed_everything
from genforge.search.plan import Plan
from genforge.search.suggestion import suggest, suggested
from genforge.steps.project import Project
from genforge.steps.search import defaults_of
from genforge.training.failure import TrainingFailed
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings

LOOKS, JUDGED = 12, (7, 11)  # of a trial; those at which a search judges it
PLAIN_STARTS, OURS_STARTS = 2.0, 2.2  # seconds to the first trial's start, and what a first trial takes longer
OF_A_LOOK = 0.03
PLAIN_SEARCHES = 300
MANY = 1000  # trials: one of such a number is none of the first


def gather(
    here: Project,
    into: Path,
    *,
    trials: int,
    seed: int,
    images: int,
    share: float | None,
    looks: int,
    part: tuple[int, int],
) -> None:
    """Append real trials of the project's recipe to the file, those whose number leaves `part[0]` when divided by
    `part[1]`: so many processes share them. The first has the recipe's own settings, the others random ones of the
    seed."""
    recipe, prepared = here.recipe(NAME), Prepared.open(here.prepared)
    of_training = derive(here.config.seed, "search", NAME)
    data, judge = DeviceData(prepared, seed=of_training), Judge.open(here.extractor, here.prepared)
    steps = round((recipe.trial_share if share is None else share) * recipe.training["steps"])
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    study.enqueue_trial(defaults_of(NAME, recipe))
    for number in range(trials):
        asked = study.ask()
        chosen = {key: suggested(asked, key, dimension) for key, dimension in recipe.search.space.items()}
        if number % part[1] != part[0]:
            continue
        changed = catalog.with_settings(recipe, {**chosen, "training.steps": steps}, "search")
        seed_everything(of_training)
        learned = catalog.build_objective(changed, prepared.shape, len(prepared.classes))
        model = Model(learned.exported, catalog.build_sampler(changed.sampler), {})
        values: list[float] = []

        def observe(step: int, network: object, model: Model = model, values: list[float] = values) -> None:
            values.append(judge.score(model.draw(of_training, images), ["fid"])["fid"])

        training = TrainingSettings.read(changed.training, "training")
        try:
            train(learned, data, training, seed=of_training, observe=observe, observations=looks)
        except TrainingFailed as failure:
            print(failure)
            continue
        with into.open("a") as file:
            file.write(json.dumps({"settings": chosen, "fids": values}) + "\n")


class Landscape:
    """FID at each look as a function of the settings, with noise, through the trials of a file."""

    def __init__(self, recipe_name: str, trials: Path) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        recipe = catalog.resolve(recipe_name, {"from": recipe_name})
        self.space, self.defaults = recipe.search.space, defaults_of(recipe_name, recipe)
        self.portfolio = [dict(entry) for entry in recipe.search.portfolio]
        rows = [json.loads(line) for line in trials.read_text().splitlines()]
        self.settings_seen = [row["settings"] for row in rows]
        self.seen = np.array([self.coordinates(settings) for settings in self.settings_seen])
        curves = np.log([row["fids"] for row in rows])  # (trials, looks)
        wide = np.ones(self.seen.shape[1])
        smooth = ConstantKernel(1.0, (0.05, 20.0)) * Matern(wide, (0.3, 30.0), nu=2.5)
        process = GaussianProcessRegressor(
            smooth + WhiteKernel(0.3, (1e-4, 1.0)), normalize_y=True, n_restarts_optimizer=2, random_state=0
        ).fit(self.seen, curves[:, -1])
        self.spread, self.noise = curves[:, -1].std(), process.kernel_.k2.noise_level
        self.kernel, self.middle = process.kernel_.k1, curves.mean(axis=0)
        self.weights = np.linalg.solve(process.kernel_(self.seen), curves - self.middle)
        left = curves - self.middle - self.kernel(self.seen) @ self.weights
        noise = math.sqrt(process.kernel_.k2.noise_level) * curves[:, -1].std()
        left *= noise / left[:, -1].std()
        self.left = left - left.mean(axis=0)

    def believed(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of log FID at the end, without the luck of trials, at places of (n, coordinates)."""
        across = self.kernel(places, self.seen)
        known = self.kernel(self.seen) + self.noise * np.eye(len(self.seen))
        covariance = self.kernel(places) - across @ np.linalg.solve(known, across.T)
        return self.middle[-1] + across @ self.weights[:, -1], covariance * self.spread**2

    def curve(self, settings: dict[str, Any], random: np.random.Generator) -> np.ndarray:
        """FIDs at the looks of one trial, (looks,)."""
        mean = self.middle + self.kernel(self.coordinates(settings)[None], self.seen)[0] @ self.weights
        return np.exp(mean + self.left[random.integers(len(self.left))])

    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """What a trial has, or gets now."""
        return {key: suggested(trial, key, dimension) for key, dimension in self.space.items()}

    def best_settings(self) -> dict[str, Any]:
        """Of many at random, those with the least mean at the end."""
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        drawn = [self.settings(study.ask()) for _ in range(2000)]
        places = np.array([self.coordinates(settings) for settings in drawn])
        return drawn[int(np.argmin(self.kernel(places, self.seen) @ self.weights[:, -1]))]

    def coordinates(self, settings: dict[str, Any]) -> np.ndarray:
        """Each setting in [0, 1], as its scale has it; a choice among words has a coordinate a word."""
        found: list[float] = []
        for key, dimension in self.space.items():
            value, choices = settings[key], dimension.choices
            if choices is None:
                assert dimension.low is not None and dimension.high is not None
                scale: Callable[[float], float] = math.log if dimension.log else float
                low, high = scale(dimension.low), scale(dimension.high)
                found.append((scale(value) - low) / (high - low))
            elif all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
                found.append(sorted(choices).index(value) / (len(choices) - 1))  # type: ignore[type-var]
            else:
                found += [float(value == choice) for choice in choices]
        return np.array(found)


@dataclass(frozen=True)
class Kind:
    """method: what suggests settings. looks: those of twelve at which a trial reports. prunes_from: the number of the
    first that may prune, from 1. fills: begins with `first_settings`. known: has the recipe's portfolio. best_from: the
    number of the first trial, from 0, that has the best settings there are, and all after it: what no search knows."""

    method: Method
    looks: tuple[int, ...] = JUDGED
    prunes_from: int = 5
    fills: bool = True
    known: bool = True
    best_from: int | None = None


KINDS = {
    "random": Kind("random"),
    "TPE": Kind("tpe"),
    "a Gaussian process": Kind("gaussian-process"),
    "TPE, first trials at random": Kind("tpe", fills=False),
    "a Gaussian process, no portfolio": Kind("gaussian-process", known=False),
    "a Gaussian process, first trials at random": Kind("gaussian-process", fills=False),
    "a Gaussian process, no pruning": Kind("gaussian-process", looks=(LOOKS - 1,)),
    "best settings from the fifth trial on": Kind("gaussian-process", looks=(LOOKS - 1,), best_from=4),
    "best settings": Kind("random", looks=(LOOKS - 1,), best_from=0),
}


def plain(landscape: Landscape, trials: int, seed: int, seconds: float) -> tuple[float, float]:
    """Seconds until plain Optuna's best trial was done, and its value; `seconds` are those of a trial."""
    random, study = np.random.default_rng([1, seed]), optuna.create_study(sampler=TPESampler(seed=seed))
    values = []
    for _ in range(trials):
        trial = study.ask()
        values.append(float(landscape.curve(landscape.settings(trial), random)[-1]))
        study.tell(trial, values[-1])
    best = int(np.argmin(values))
    return PLAIN_STARTS + seconds * (best + 1), values[best]


def ours(
    landscape: Landscape, kind: Kind, trials: int, workers: int, seed: int, seconds: float, best: dict[str, Any]
) -> list[tuple[float, float]]:
    """Seconds until a trial was done, and its value, of all that came to their end."""
    random, looks = np.random.default_rng([2, seed]), kind.looks
    tried: dict[str, np.ndarray] = {}
    plan = Plan(
        name=NAME,
        space=landscape.space,
        defaults=landscape.defaults,
        portfolio=landscape.portfolio if kind.known else [],
        objective="nothing:here",
        better="lower",
        trials=trials,
        seed=seed,
        method=kind.method,
    )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=kind.prunes_from)
    study, begun = optuna.create_study(pruner=pruner), 0
    waiting: list[tuple[float, int, int, int, optuna.Trial, np.ndarray]] = []  # of each worker: its next look
    done: list[tuple[float, float]] = []

    def begin(now: float, worker: int) -> None:
        nonlocal begun
        if begun == trials:
            return
        known = kind.best_from is not None and begun >= kind.best_from
        if known or begun == 0:
            study.enqueue_trial(best if known else landscape.defaults)
        else:
            number = begun if kind.fills else begun + MANY
            study.enqueue_trial(suggest(plan, study.get_trials(deepcopy=False), number))
        trial = study.ask()
        settings = landscape.settings(trial)
        curve = landscape.curve(settings, random)
        if not known:  # trials train from one seed: the same settings have the same luck; the best stand for many
            curve = tried.setdefault(json.dumps(settings), curve)
        first = now + seconds * (looks[0] + 1) / LOOKS + OF_A_LOOK
        heapq.heappush(waiting, (first, worker, 0, begun, trial, curve))
        begun += 1

    for worker in range(workers):
        begin(OURS_STARTS, worker)
    while waiting:
        now, worker, look, number, trial, curve = heapq.heappop(waiting)
        value = float(curve[looks[look]])
        trial.report(value, looks[look] + 1)
        if look == len(looks) - 1:
            study.tell(trial, value)
            done.append((now, value))
            begin(now, worker)
        elif number > 0 and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            begin(now, worker)
        else:
            after = now + seconds * (looks[look + 1] - looks[look]) / LOOKS + OF_A_LOOK
            heapq.heappush(waiting, (after, worker, look + 1, number, trial, curve))
    return done


def compared(theirs: list[tuple[float, float]], searches: list[list[tuple[float, float]]]) -> dict[str, Any]:
    """All pairs of a search of each side."""
    ratios = np.array([[taken / seconds_to(value, trials) for taken, value in theirs] for trials in searches])
    random = np.random.default_rng(0)
    again = [np.median(ratios[random.integers(len(ratios), size=len(ratios))]) for _ in range(200)]
    low, middle, high = (round(float(part), 2) for part in np.quantile(ratios, [0.25, 0.5, 0.75]))
    never = round(float((ratios == 0.0).mean()), 3)
    return {"ratio": middle, "deviation": round(float(np.std(again)), 2), "quartiles": [low, high], "never": never}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    gathering = parts.add_parser("gather", help="real trials with random settings")
    gathering.add_argument("recipe")
    gathering.add_argument("--trials", type=int, default=64)
    gathering.add_argument("--seed", type=int, default=0)
    gathering.add_argument("--into", type=Path, required=True)
    gathering.add_argument("--images", type=int, default=200, help="for each value")
    add_share(gathering)
    gathering.add_argument("--scratch", type=Path, default=SCRATCH)
    searching = parts.add_parser("search", help="simulated searches of them")
    searching.add_argument("recipe")
    searching.add_argument("file", type=Path, help="that `gather` wrote")
    searching.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    searching.add_argument("--seeds", type=int, default=60)
    searching.add_argument("--seconds", type=float, default=2.8, help="a trial of plain Optuna, on all cores")
    searching.add_argument("--our-seconds", type=float, default=5.0, help="a trial of ours, one of four at once")
    searching.add_argument("--trials", type=int, default=12, help="of plain Optuna")
    searching.add_argument("--workers", type=int, default=4, help="of ours")
    arguments = parser.parse_args(argv)
    if arguments.part == "gather":
        folder, seed = arguments.scratch / f"search-{arguments.recipe}", arguments.seed
        Search(folder, arguments.recipe, arguments.share, training=seed).prepare(seed)
        kept = {"images": arguments.images, "share": arguments.share, "looks": LOOKS, "part": (0, 1)}
        gather(Project.load(folder), arguments.into, trials=arguments.trials, seed=seed, **kept)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    landscape = Landscape(arguments.recipe, arguments.file)
    best = landscape.best_settings()
    theirs = [plain(landscape, arguments.trials, seed, arguments.seconds) for seed in range(PLAIN_SEARCHES)]
    for name in arguments.only:
        trials, workers, seconds = LONGER * arguments.trials, arguments.workers, arguments.our_seconds
        searches = [
            ours(landscape, KINDS[name], trials, workers, seed, seconds, best) for seed in range(arguments.seeds)
        ]
        print(json.dumps({"search": name, **compared(theirs, searches)}), flush=True)


if __name__ == "__main__":
    main()
