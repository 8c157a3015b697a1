"""Whether a change that makes training faster makes images worse: FID of the same recipe with and without it.

    python tests/benchmarks/same_results.py gan-mlp --project FOLDER --with training.precision=bfloat16 [--seeds 3]

FOLDER is a project whose steps `prepare` and `extractor` are done. Each seed trains both sides from the same first
weights on the same batches. Prints a line of JSON for each training, then one with means, their spread over seeds, and
the mean of the differences with its 95% interval (Student's t over the pairs). Where that holds zero, no difference is
seen; how large a one may hide, the interval says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from train_step import recipe_of

from genforge import catalog
from genforge.data.loading import DeviceData, Prepared
from genforge.evaluation.fidelity import Judge
from genforge.models import Model
from genforge.randomness import seed_everything
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings


def fid_of(
    recipe: catalog.Recipe, prepared: Prepared, judge: Judge, seed: int, images: int, device: str
) -> tuple[float, float]:
    """FID after training, and the seconds of this thread's processor, or of the clock on a GPU, that training took."""
    settings = TrainingSettings.read(recipe.training, "training")
    seed_everything(seed)
    objective = catalog.build_objective(recipe, prepared.shape, len(prepared.classes))
    data = DeviceData(prepared, "train", device, seed=seed)
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    train(objective, data, settings, device=device, seed=seed, title=f"seed {seed}")
    seconds = clock() - began
    drawn = Model(objective.exported, catalog.build_sampler(recipe.sampler), {}).draw(seed, images)
    return judge.score(drawn, ["fid"])["fid"], seconds


def interval(differences: list[float]) -> list[float] | None:
    """The 95% interval of their mean; None of a single one."""
    count = len(differences)
    if count < 2:
        return None
    from scipy.stats import t

    middle = statistics.mean(differences)
    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    return [round(middle - half, 4), round(middle + half, 4)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of both sides")
    parser.add_argument("--with", action="append", default=[], metavar="KEY=VALUE", dest="change", help="of one side")
    parser.add_argument("--steps", type=int, default=None, help="left out: the recipe's own")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    prepared = Prepared.open(arguments.project / "data" / "prepared")
    judge = Judge.open(arguments.project / "results" / "extractor", arguments.project / "data" / "prepared")
    training = {} if arguments.steps is None else {"steps": arguments.steps}
    found: dict[str, list[float]] = {"without": [], "with": []}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for side, change in (("without", []), ("with", arguments.change)):
            recipe = recipe_of(arguments.recipe, [*arguments.set, *change], dict(training))
            fid, seconds = fid_of(recipe, prepared, judge, seed, arguments.images, arguments.device)
            found[side].append(fid)
            line = {"recipe": arguments.recipe, "seed": seed, "side": side, "fid": round(fid, 4)}
            print(json.dumps({**line, "seconds": round(seconds, 1)}), flush=True)
    differences = [changed - as_it_was for as_it_was, changed in zip(found["without"], found["with"], strict=True)]
    summary: dict[str, object] = {"recipe": arguments.recipe, "change": arguments.change, "images": arguments.images}
    for side, values in {**found, "difference": differences}.items():
        spread = statistics.stdev(values) if len(values) > 1 else None
        summary[side] = {"mean": round(statistics.mean(values), 4), "deviation": spread and round(spread, 4)}
    summary["interval"] = interval(differences)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
