"""`genforge`: one command a step, and the few that people want at hand.

A command is an entry of `COMMANDS`: its help, its arguments, and a plain function. Everything heavy is imported inside
the functions, so that `genforge --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from genforge.files import write_json
from genforge.progress import say
from genforge.settings import UserError

T = TypeVar("T")
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
FAILURE = "GENFORGE_FAILURE"  # a file in which a flow wants to read why a step failed
EXIT_USER, EXIT_FAILED = 2, 1
SECONDS_FOR_A_DYING_ONE = 8.0  # a stage whose owner was killed ends within 5: the next one waits for that


@dataclass(frozen=True)
class Command:
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="steps side by side (default: one for each core, at most 4)"
    )


def _run(arguments: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "pipelines.retrain"]
    command += ["--jobs", str(arguments.jobs)] if arguments.jobs else []
    if not Path("pipelines/retrain.py").is_file():
        raise UserError(f"{Path.cwd()} holds no pipelines/retrain.py; run genforge in the project's folder")
    os.execv(sys.executable, command)  # noqa: S606  a list of arguments: no shell sees it


def _step_arguments(parser: argparse.ArgumentParser) -> None:
    lines = "\n".join(f"  {name:10} {text}" for name, text in STEPS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"steps:\n{lines}\n\n`dvc repro` runs those that are out of date, in order."
    parser.add_argument("step", choices=list(STEPS), metavar="STEP", help="see below")
    parser.add_argument("name", nargs="?", help="the recipe, for steps that work on one")


def _step(arguments: argparse.Namespace) -> None:
    from genforge.locks import alone
    from genforge.ownership import end_with_owner, stop_on_signals
    from genforge.parallel import is_first

    end_with_owner()
    stop_on_signals()

    from genforge.steps.project import Project
    from genforge.steps.resolve import check

    project = Project.load()
    check(project.config)  # before any work, also in steps that know no recipe
    project.use_threads()
    words = [arguments.step, *([arguments.name] if arguments.name else [])]
    # Of several processes that `torchrun` starts for one training, the first holds the lock for all.
    lock = alone(project.lock("@".join(words)), f"do the step {' '.join(words)} here", SECONDS_FOR_A_DYING_ONE)
    with lock if is_first() else contextlib.nullcontext():
        importlib.import_module(f"genforge.steps.{arguments.step}").run(project, arguments.name)


def _recipes_arguments(parser: argparse.ArgumentParser) -> None:
    _json_argument(parser)


def _recipes(arguments: argparse.Namespace) -> None:
    from genforge.steps.recipes import list_recipes, recipes_table

    rows = list_recipes()
    print(json.dumps(rows, indent=2)) if arguments.json else _show(recipes_table(rows))


def _leaderboard(arguments: argparse.Namespace) -> None:
    from genforge.evaluation.leaderboard import render
    from genforge.files import read_json
    from genforge.steps.project import Project

    leaderboard = read_json(Project.load().leaderboard)
    print(json.dumps(leaderboard, indent=2)) if arguments.json else _show(render(leaderboard))


def _gates_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a recipe of params.yaml, or a registered NAME@ALIAS")
    _json_argument(parser)


def _gates(arguments: argparse.Namespace) -> None:
    from genforge.steps.gates import explain, kept_verdict
    from genforge.steps.project import Project

    verdict = kept_verdict(Project.load(), arguments.model)
    print(json.dumps(verdict, indent=2) if arguments.json else explain(verdict))


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    what = "a registered model (digits@staging, digits/3, models:/digits@staging), a trained recipe or a trained folder"
    parser.add_argument("address", nargs="?", metavar="MODEL", help=what)
    parser.add_argument("--model", metavar="MODEL", help="the same, by name")
    parser.add_argument("-n", "--images", type=int, default=64, help="how many (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="image i of a seed is always the same image (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("grid.png"), help="a .png grid, a .npy array, or a folder of PNGs"
    )
    parser.add_argument(
        "--label", metavar="CLASS", help="draw this class alone, of a conditional model: name or number"
    )
    parser.add_argument(
        "--trajectory",
        type=positive,
        metavar="MOMENTS",
        help="show how the images come to be, at so many moments, of a model that draws step by step",
    )
    given = parser.add_argument_group(
        "pictures that are given", "of a model that denoises: an image, a folder of images or a .npy array"
    )
    given.add_argument("--from", type=Path, dest="pictures", metavar="PICTURES", help="draw images like these")
    given.add_argument("--inpaint", type=Path, metavar="PICTURES", help="draw a part of these anew, see --mask")
    given.add_argument(
        "--mask",
        metavar="MASK",
        help="which part: top, bottom, left, right, middle, or an image whose white is drawn anew and whose black is "
        "kept",
    )
    given.add_argument(
        "--strength",
        type=float,
        metavar="SHARE",
        help="share of the sampler's steps that are made, above 0 to 1: how much may change (default: 0.6 with --from, "
        "1 with --inpaint)",
    )


def _sample(arguments: argparse.Namespace) -> None:
    named = [model for model in (arguments.address, arguments.model) if model is not None]
    if len(named) != 1:
        raise UserError("genforge sample: name one model, such as `genforge sample digits@staging`")
    (model,) = named
    pictures, inpaint = arguments.pictures, arguments.inpaint
    if pictures and inpaint:
        raise UserError("--from and --inpaint exclude each other: the one changes all of a picture, the other a part")
    if bool(inpaint) != (arguments.mask is not None):
        raise UserError("--inpaint and --mask belong together: which picture, and which part of it is drawn anew")
    if arguments.strength is not None and not (pictures or inpaint):
        raise UserError("--strength says how much of a picture may change; name the picture with --from or --inpaint")
    if arguments.trajectory and (pictures or inpaint):
        raise UserError("--trajectory shows how images come to be from noise alone; leave out --from and --inpaint")
    if arguments.trajectory:
        from genforge.steps.draw import draw_trajectory

        count, moments = arguments.images, arguments.trajectory
        draw_trajectory(model, count, moments, arguments.seed, arguments.out, label=arguments.label)
    elif pictures or inpaint:
        from genforge.steps.edit import Request, edit

        strength = arguments.strength if arguments.strength is not None else 1.0 if inpaint else 0.6
        request = Request(inpaint or pictures, arguments.mask, strength, arguments.label)
        edit(model, request, arguments.images, arguments.seed, arguments.out)
    else:
        from genforge.steps.draw import draw

        draw(model, arguments.images, arguments.seed, arguments.out, label=arguments.label)
    print(arguments.out)


def _latent_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a trained recipe, or a folder with a trained model")
    parser.add_argument("--out", type=Path, default=Path("latent"), help="folder for the pictures (default: latent)")
    parser.add_argument("--encode", action="store_true", help="write codes.npy there too: those of the held-out images")
    parser.add_argument("--decode", type=Path, metavar="CODES", help="a .npy of codes, to be drawn into decoded.npy")
    _json_argument(parser)


def _latent(arguments: argparse.Namespace) -> None:
    from genforge.steps.latent import knowledge_table, show
    from genforge.steps.project import Project

    known = show(Project.load(), arguments.model, arguments.out, arguments.encode, arguments.decode)
    print(json.dumps(known, indent=2)) if arguments.json else _show(knowledge_table(known))


def _samplers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a trained one of params.yaml that denoises")
    parser.add_argument(
        "--steps", type=_several(positive), default=[5, 10, 20, 50], metavar="N,N,...", help="default: 5,10,20,50"
    )
    parser.add_argument(
        "--samplers", type=_several(str), metavar="NAME,NAME,...", help="default: all that suit what was trained"
    )
    _json_argument(parser)


def _samplers(arguments: argparse.Namespace) -> None:
    from genforge.locks import alone
    from genforge.steps.project import Project
    from genforge.steps.samplers import compare, comparison_table

    project = Project.load()
    project.use_threads()
    with alone(project.lock(f"samplers@{arguments.recipe}"), f"compare samplers of {arguments.recipe}"):
        found = compare(project, arguments.recipe, arguments.steps, arguments.samplers)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _show(comparison_table(found))
        print(project.samplers(arguments.recipe))


def _ema_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="one of params.yaml, trained with training.averages.snapshots")
    parser.add_argument(
        "--sigma-rel",
        type=_several(float),
        default=[0.02, 0.05, 0.1, 0.15, 0.2],
        metavar="LENGTH,LENGTH,...",
        help="lengths of the averages, as shares of training (default: 0.02,0.05,0.1,0.15,0.2)",
    )
    _json_argument(parser)


def _ema(arguments: argparse.Namespace) -> None:
    from genforge.locks import alone
    from genforge.steps.averages import averages_table, compare
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    with alone(project.lock(f"ema@{arguments.recipe}"), f"compare averages of {arguments.recipe}"):
        found = compare(project, arguments.recipe, arguments.sigma_rel)
    print(json.dumps(found.to_json(), indent=2)) if arguments.json else _show(averages_table(found))


def _provenance_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a picture: PNG, JPEG, WebP, BMP, TIFF or GIF")
    _json_argument(parser)


def _provenance(arguments: argparse.Namespace) -> None:
    """Exit status 0: the picture says where it came from; else 1."""
    from genforge.steps.provenance import examine, finding_table

    finding = examine(arguments.file)
    print(json.dumps(finding.to_json(), indent=2)) if arguments.json else _show(finding_table(finding))
    if not finding.says_anything:
        sys.exit(EXIT_FAILED)


def _preset_arguments(parser: argparse.ArgumentParser) -> None:
    from genforge.steps.preset import names

    parser.add_argument("name", choices=names(), metavar="NAME", help=", ".join(names()))
    parser.add_argument("--out", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto",
                        help="what it is sized for (default: auto, the GPU where there is one)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over a file that is there already")


def _preset(arguments: argparse.Namespace) -> None:
    from genforge.steps.preset import write

    device = arguments.device
    if device == "auto":
        import torch

        device = "gpu" if torch.cuda.is_available() else "cpu"
    write(arguments.name, device, arguments.out, arguments.force)
    say(f"{arguments.out}: the preset {arguments.name}, sized for a {device.upper()}; edit it, then `genforge run`")


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        help="a folder of images, or a uint8 .npy array (images, height, width, channels); of points float32 (n, 2)",
    )
    _json_argument(parser)


def _judge(arguments: argparse.Namespace) -> None:
    from genforge.steps.judge import judge, verdict_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    verdict = judge(project, arguments.path)
    print(json.dumps(verdict, indent=2)) if arguments.json else _show(verdict_table(verdict))


def _anomaly_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a folder of images, an image, or a uint8 .npy array")
    parser.add_argument(
        "--model",
        help="a recipe of params.yaml, a trained folder, or a registered model such as digits@staging "
        "(default: of the trained recipes, the one that finds held-out images likeliest)",
    )
    parser.add_argument(
        "--by",
        metavar="SCORE",
        help="likelihood, complexity (likelihood less what a compressor needs), typicality, reconstruction or energy "
        "(default: likelihood)",
    )
    parser.add_argument("--against", type=Path, metavar="PATH", help="normal images (default: the held-out ones)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="a .png to write, the strangest images first")
    _json_argument(parser)


def _anomaly(arguments: argparse.Namespace) -> None:
    from genforge.steps.anomaly import anomaly, anomaly_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    result = anomaly(project, arguments.path, arguments.model, arguments.by, arguments.against, arguments.picture)
    print(json.dumps(result, indent=2)) if arguments.json else _show(anomaly_table(result))


def _augment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="conditional: a recipe, a trained folder, or a registered model")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new or empty; gets a folder a class")
    parser.add_argument("--count", type=positive, required=True, metavar="N", help="images in all")
    parser.add_argument("--seed", type=int, default=0, help="image i of a seed is always the same image (default: 0)")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="train classifiers on real images, on these and on both, and test them on held-out real ones",
    )
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="--measure: trainings on each (default: 3)"
    )
    _json_argument(parser)


def _augment(arguments: argparse.Namespace) -> None:
    from genforge.steps.augment import augment, augmentation_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    given = (arguments.out, arguments.count, arguments.seed, arguments.measure, arguments.repeats)
    result = augment(project, arguments.model, *given)
    print(json.dumps(result, indent=2)) if arguments.json else _show(augmentation_table(result))


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    names = "a recipe of params.yaml, NAME@ALIAS, NAME/VERSION, or a folder with a trained model"
    parser.add_argument("first", help=names)
    parser.add_argument("second", help="the same")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the page (default: below results/comparisons)")
    _json_argument(parser)


def _compare(arguments: argparse.Namespace) -> None:
    from genforge.steps.compare import compare, comparison_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    told = compare(project, arguments.first, arguments.second, arguments.out)
    print(json.dumps(told, indent=2)) if arguments.json else _show(comparison_table(told))


def _drift_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a folder of images, or a uint8 .npy array")
    parser.add_argument("--out", type=Path, default=Path("drift.png"), help="the picture (default: drift.png)")
    _json_argument(parser)


def _drift(arguments: argparse.Namespace) -> None:
    from genforge.steps.drift import drift, in_words
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    found = drift(project, arguments.path, arguments.out)
    print(json.dumps(found, indent=2) if arguments.json else in_words(found))


def _promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="NAME/VERSION, NAME@ALIAS, or NAME for NAME@staging")
    parser.add_argument("--alias", required=True, help="to give it, such as production")
    parser.add_argument("--reason", required=True, help="why, for the history")
    parser.add_argument("--approve", metavar="NAME", help="who has approved it, where registry.approval asks for that")
    _json_argument(parser)


def _promote(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import moves_table, promote
    from genforge.steps.project import Project

    move = promote(Project.load(), arguments.model, arguments.alias, arguments.reason, arguments.approve)
    print(json.dumps(move, indent=2)) if arguments.json else _show(moves_table([move]))


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="the registered model (default: the one of params.yaml)")
    parser.add_argument("--alias", default="staging", help="which goes back (default: staging)")
    parser.add_argument("--to", type=positive, metavar="VERSION", help="that held it once (default: the one before)")
    parser.add_argument("--reason", default="", help="why, for the history")
    _json_argument(parser)


def _rollback(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import moves_table, rollback
    from genforge.steps.project import Project

    move = rollback(Project.load(), arguments.model, arguments.alias, arguments.to, arguments.reason)
    print(json.dumps(move, indent=2)) if arguments.json else _show(moves_table([move]))


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="the registered model (default: the one of params.yaml)")
    parser.add_argument("--alias", help="of this alone (default: of all)")
    _json_argument(parser)


def _history(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import history, moves_table
    from genforge.steps.project import Project

    moves = history(Project.load(), arguments.model, arguments.alias)
    print(json.dumps(moves, indent=2)) if arguments.json else _show(moves_table(moves))


def _ui_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, default=5000, help="of the MLflow UI on 127.0.0.1 (default: 5000)")


def _ui(arguments: argparse.Namespace) -> None:
    from genforge.tracking.runs import ui_command

    command, environment = ui_command(Path.cwd(), arguments.port)
    say(f"MLflow UI: http://127.0.0.1:{arguments.port}  (Ctrl-C ends it)")
    os.execve(command[0], command, environment)  # noqa: S606  a list of arguments: no shell sees it


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fix", action="store_true", help="mend what is found; without it nothing is changed")
    _json_argument(parser)


def _doctor(arguments: argparse.Namespace) -> None:
    """Exit status 0: nothing is wrong, or all is mended; else 1."""
    from genforge.steps import doctor

    examination = doctor.examine(Path.cwd())
    if arguments.fix and examination.findings:
        if not arguments.json:
            _show(doctor.findings_table(examination))
        doctor.mend(examination)
    if arguments.json:
        print(json.dumps(examination.to_json(), indent=2))
    else:
        if examination.findings or examination.blind:
            _show(doctor.findings_table(examination))
        _show(doctor.checks_table(examination))
        print(doctor.headline(examination))
    if not examination.is_healthy:
        sys.exit(EXIT_FAILED)


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number, 1 or more, not {text!r}")
    return int(text)


def _several(one: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Several of what `one` reads, with commas between them, for argparse."""

    def read(text: str) -> list[T]:
        return [one(part.strip()) for part in text.split(",")]

    read.__name__ = f"{one.__name__}s"
    return read


def _port(text: str) -> int:
    """A port, for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"should be a port from 1 to 65535, not {text!r}")
    return int(text)


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


COMMANDS = {
    "run": Command("run the whole pipeline as a flow; what is up to date is left alone", _run_arguments, _run),
    "step": Command("run one step by itself", _step_arguments, _step),
    "recipes": Command("list the library of ready recipes", _recipes_arguments, _recipes),
    "preset": Command("write a params.yaml to begin with, for a data set and a device", _preset_arguments, _preset),
    "leaderboard": Command("show how the models compare", _json_argument, _leaderboard),
    "gates": Command("say in words why a model may hold an alias, or may not", _gates_arguments, _gates),
    "sample": Command("draw images from a registered model", _sample_arguments, _sample),
    "latent": Command("look at the latent space of a model with an encoder", _latent_arguments, _latent),
    "samplers": Command("compare samplers and steps on a trained denoiser", _samplers_arguments, _samplers),
    "ema": Command("compare lengths of the weights' average after training", _ema_arguments, _ema),
    "provenance": Command(
        "say which model drew a picture, by its text and its watermark", _provenance_arguments, _provenance
    ),
    "judge": Command("score any images against the prepared data", _judge_arguments, _judge),
    "compare": Command("say which of two models is better, and how sure that is", _compare_arguments, _compare),
    "drift": Command("test whether images have drifted away from the prepared data", _drift_arguments, _drift),
    "augment": Command("write a labelled set of drawn images, and tell what it is worth", _augment_arguments, _augment),
    "anomaly": Command("find the images that are strangest to a trained model", _anomaly_arguments, _anomaly),
    "doctor": Command("find what killed processes have left, and mend it with --fix", _doctor_arguments, _doctor),
    "promote": Command("give an alias to a registered version, by hand", _promote_arguments, _promote),
    "rollback": Command("give an alias back to the version that held it before", _rollback_arguments, _rollback),
    "history": Command("show who moved which alias when, and why", _history_arguments, _history),
    "ui": Command("open the MLflow UI on this machine", _ui_arguments, _ui),
}


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="genforge", description="Keeps generative image models fresh.")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help[0].upper() + command.help[1:] + ".")
        command.arguments(sub)
    return main_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 2 for a mistake of the user's, told in words; 1 for a failure, with its traceback."""
    arguments = parser().parse_args(argv)
    set_environment()
    try:
        _look_after_runs(Path.cwd())
        COMMANDS[arguments.command].run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _tell_flow("passing" if isinstance(error, ConnectionError) else "user", str(error))
        return EXIT_USER
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone. Point standard output at nothing, or the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        traceback.print_exc()
        passing = isinstance(error, ConnectionError | TimeoutError)
        _tell_flow("passing" if passing else "failure", "".join(traceback.format_exception_only(error)).strip())
        return EXIT_FAILED
    return 0


def _look_after_runs(project: Path) -> None:
    """Before any command: a run whose process was killed does not stay RUNNING."""
    if (project / ".genforge" / "runs").is_dir():
        from genforge.tracking.runs import look_after

        look_after(project)


def set_environment() -> None:
    """Defaults for this process and its children, where the user says nothing else: no telemetry of other packages, no
    chatter of theirs between our lines, and threads that wait asleep.

    Threads of PyTorch's pool otherwise spin while they wait; with more threads than free cores, a step that takes a
    millisecond then takes a second.
    """
    threads = os.environ.get("GENFORGE_THREADS", "")  # where steps run side by side, NumPy is to take no more, either
    for key, value in {
        **({"OPENBLAS_NUM_THREADS": threads} if threads else {}),
        "OMP_WAIT_POLICY": "PASSIVE",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONWARNINGS": "ignore",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # to ask whether there is a GPU is not to touch one
    }.items():
        os.environ.setdefault(key, value)
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


def _tell_flow(kind: str, text: str) -> None:
    if path := os.environ.get(FAILURE):
        with contextlib.suppress(OSError):  # the step has failed already; its exit status says so too
            write_json(Path(path), {"kind": kind, "text": text})


def _show(table: object) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    sys.exit(main())
