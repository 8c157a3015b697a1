"""How long a trial has to be: whether who is ahead after a part of a training is ahead at its end.

    python tests/benchmarks/trial_length.py RECIPE --data digits|mnist|cifar|PATH --size 16 --files FOLDER --into FOLDER
        [--shares 0.1 0.2 0.4 0.5 0.6 0.8] [--times 1] [--settings 16] [--seeds 2] [--images 1000] [--workers 4]

Trains with the recipe's own settings and with others drawn at random from its space, each for every one of these shares
of the whole and for the whole, which is the recipe's steps so many `--times`. Trials train from the seed that the whole
trainings have, which is the most that they could tell. One line of JSON for each seed: Spearman's correlation of the
FID of such trials with that of the whole trainings, and what the trial that was best of such a length comes to at the
end; beside it what the recipe's own settings come to, and the best. `--into` keeps what was measured (`portfolio.py
gather` writes it), so that a run that was interrupted does not do again what is whole.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import images
import numpy as np
import portfolio
from scipy.stats import spearmanr

from genforge.catalog import resolve
from genforge.steps.search import defaults_of

SHARES = [0.1, 0.2, 0.4, 0.5, 0.6, 0.8]
Values = dict[str, float]  # FID by settings, as text


def as_text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def measure(arguments: argparse.Namespace, seed: int, share: float) -> Values:
    """FID of trainings of this share of the recipe's steps, from this seed, each."""
    of = [arguments.recipe, Path(arguments.data).name, arguments.size or "own", f"seed{seed}", f"{share:g}"]
    into = arguments.into / f"{'-'.join(map(str, [*of, arguments.settings, arguments.images]))}.jsonl"
    if not into.exists():
        into.parent.mkdir(parents=True, exist_ok=True)
        unfinished = into.with_suffix(".part")
        unfinished.unlink(missing_ok=True)
        said = ["gather", arguments.recipe, "--data", arguments.data, "--files", str(arguments.files)]
        said += [] if arguments.size is None else ["--size", str(arguments.size)]
        said += ["--scratch", str(arguments.scratch), "--trials", str(arguments.settings), "--seed", str(seed)]
        said += ["--share", f"{share:g}", "--images", str(arguments.images), "--workers", str(arguments.workers)]
        portfolio.main([*said, "--into", str(unfinished)])
        unfinished.rename(into)
    rows = [json.loads(line) for line in into.read_text().splitlines()]
    return {as_text(row["settings"]): row["fids"][-1] for row in rows}


def told(whole: Values, shorter: dict[float, Values], own: str) -> dict[str, Any]:
    """What trials of each length say of whole trainings. Settings that failed anywhere are left out."""
    kept = [each for each in whole if all(each in values for values in shorter.values())]
    ends = [whole[each] for each in kept]
    return {
        "settings": len(kept),
        "order": {
            share: round(float(spearmanr([values[each] for each in kept], ends).statistic), 2)
            for share, values in shorter.items()
        },
        "best_ends_at": {
            share: round(whole[min(kept, key=lambda each, values=values: values[each])], 3)  # type: ignore[misc]
            for share, values in shorter.items()
        },
        "own": None if own not in kept else round(whole[own], 3),
        "best": round(float(np.min(ends)), 3),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    images.add_arguments(parser)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the whole training's steps")
    parser.add_argument("--times", type=float, default=1.0, help="the recipe's steps that the whole training has")
    parser.add_argument("--settings", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2, help="of settings and training")
    parser.add_argument("--images", type=int, default=1000, help="for each value")
    parser.add_argument("--workers", type=int, default=4, help="processes, of a thread each")
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args(argv)
    recipe = resolve(arguments.recipe, {"from": arguments.recipe})
    own = as_text(defaults_of(arguments.recipe, recipe))
    for seed in range(arguments.seeds):
        shorter = {share: measure(arguments, seed, share * arguments.times) for share in arguments.shares}
        whole = measure(arguments, seed, arguments.times)
        print(json.dumps({"recipe": arguments.recipe, "seed": seed, **told(whole, shorter, own)}), flush=True)


if __name__ == "__main__":
    main()
