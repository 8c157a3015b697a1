"""The pipeline as a whole: run it, run a step of it, begin with a preset, mend what killed processes have left."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

from genforge.commands.arguments import EXIT_FAILED, Command, json_argument, place, positive, print_table
from genforge.progress import say
from genforge.settings import UserError

STEPS = {
    "resolve": "check every recipe of params.yaml and write it out in full",
    "ingest": "bring the raw images or their listing to data/raw",
    "prepare": "decode, check, resize and split them into data/prepared",
    "extractor": "train the judge's eyes and compute the reference statistics",
    "search": "look for better settings of one recipe",
    "train": "train one recipe",
    "sample": "draw the images of one recipe that the judge will see",
    "evaluate": "judge one recipe's images, or `floor`: held-out real ones",
    "gates": "look at every model alone, as its gates say",
    "rank": "make the leaderboard",
    "report": "make the report and its pictures",
    "register": "register the best models and move the aliases",
}
OF_ONE_RECIPE = ("search", "train", "sample", "evaluate", "gates")  # steps that take its name; gates may go without
SECONDS_FOR_A_DYING_ONE = 8.0  # a stage whose owner was killed ends within 5: the next one waits for that


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="steps side by side (default: one for each core, at most 4)"
    )


def _run(arguments: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "pipelines.retrain"]
    command += ["--jobs", str(arguments.jobs)] if arguments.jobs else []
    if not Path("pipelines/retrain.py").is_file():
        raise UserError(
            f"{Path.cwd()} holds no pipelines/retrain.py; run genforge in the project's folder, a clone of genforge"
        )
    os.execv(sys.executable, command)  # noqa: S606  a list of arguments: no shell sees it


def _step_arguments(parser: argparse.ArgumentParser) -> None:
    lines = "\n".join(f"  {name:10} {text}" for name, text in STEPS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"steps:\n{lines}\n\n`dvc repro` runs those that are out of date, in order."
    parser.add_argument("step", choices=list(STEPS), metavar="STEP", help="see below")
    parser.add_argument("name", nargs="?", metavar="RECIPE", help="for steps that work on one")


def _step(arguments: argparse.Namespace) -> None:
    if arguments.name is not None and arguments.step not in OF_ONE_RECIPE:
        raise UserError(f"step {arguments.step}: is of all recipes alike; leave out {arguments.name!r}")
    from genforge.locks import alone
    from genforge.ownership import end_with_owner, stop_on_signals
    from genforge.parallel import is_first

    end_with_owner()
    stop_on_signals()

    from genforge.steps import checked
    from genforge.steps.project import Project

    project = Project.load()
    checked.ensure(project)  # before any work, also in steps that know no recipe
    project.use_threads()
    words = [arguments.step, *([arguments.name] if arguments.name else [])]
    # Of several processes that `torchrun` starts for one training, the first holds the lock for all.
    lock = alone(project.lock("@".join(words)), f"do the step {' '.join(words)} here", SECONDS_FOR_A_DYING_ONE)
    with lock if is_first() else contextlib.nullcontext():
        importlib.import_module(f"genforge.steps.{arguments.step}").run(project, arguments.name)


def _recipes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="show this one: its file, or with --json every setting that it has"
    )
    json_argument(parser)


def _recipes(arguments: argparse.Namespace) -> None:
    from genforge.steps.recipes import in_full, list_recipes, recipes_table, text_of

    if arguments.name is not None:
        print(json.dumps(in_full(arguments.name), indent=2) if arguments.json else text_of(arguments.name).rstrip())
        return
    rows = list_recipes()
    print(json.dumps(rows, indent=2)) if arguments.json else print_table(recipes_table(rows))


def _preset_arguments(parser: argparse.ArgumentParser) -> None:
    from genforge.steps.preset import names

    parser.add_argument("name", choices=names(), metavar="NAME", help=", ".join(names()))
    parser.add_argument("--out", type=place, default=Path("params.yaml"), metavar="FILE", help="what is written "
                        "(default: params.yaml)")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto",
                        help="what it is sized for (default: auto, the GPU where there is one)")  # fmt: skip
    parser.add_argument("--folder", type=Path, metavar="PATH", help="my-images, celeba: where the images lie; its name "
                        "becomes the model's, and how many there are says how many can judge")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over a file that somebody has changed, too")


def _preset(arguments: argparse.Namespace) -> None:
    from genforge.steps.preset import write

    device = arguments.device
    if device == "auto":
        import torch

        device = "gpu" if torch.cuda.is_available() else "cpu"
    fitted = write(arguments.name, device, arguments.out, arguments.force, arguments.folder)
    say(f"{arguments.out}: the preset {arguments.name}, sized for a {device.upper()}; look at it, then `genforge run`")
    for line in fitted:
        say(f"  {line}")


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fix", action="store_true", help="mend what is found; without it nothing is mended")
    json_argument(parser)


def _doctor(arguments: argparse.Namespace) -> None:
    """Exit status 0: nothing is wrong, or all is mended; else 1."""
    from genforge.steps import doctor

    examination = doctor.examine(Path.cwd())
    if arguments.fix and examination.findings:
        if not arguments.json:
            print_table(doctor.findings_table(examination))
        doctor.mend(examination)
    if arguments.json:
        print(json.dumps(examination.to_json(), indent=2))
    else:
        if examination.findings or examination.blind:
            print_table(doctor.findings_table(examination))
        print_table(doctor.checks_table(examination))
        print(doctor.headline(examination))
    if not examination.is_healthy:
        sys.exit(EXIT_FAILED)


COMMANDS = {
    "run": Command("run the whole pipeline as a flow; what is up to date is left alone", _run_arguments, _run),
    "step": Command("run one step by itself", _step_arguments, _step),
    "recipes": Command("list the library of ready recipes, or show one", _recipes_arguments, _recipes),
    "preset": Command("write a params.yaml to begin with, for a data set and a device", _preset_arguments, _preset),
    "doctor": Command("find what killed processes have left, and mend it with --fix", _doctor_arguments, _doctor),
}
