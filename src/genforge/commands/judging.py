"""What the judge says: of models, of any images, of two models, of new data, of samplers and averages."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from genforge.commands.arguments import Command, json_argument, new_folder, png, positive, print_table, several


def _leaderboard(arguments: argparse.Namespace) -> None:
    from genforge.evaluation.leaderboard import render
    from genforge.files import read_json
    from genforge.steps.project import Project

    leaderboard = read_json(Project.load().leaderboard)
    print(json.dumps(leaderboard, indent=2)) if arguments.json else print_table(render(leaderboard))


def _gates_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a recipe of params.yaml, or NAME@ALIAS: why the alias moved or stayed"
    )
    json_argument(parser)


def _gates(arguments: argparse.Namespace) -> None:
    from genforge.steps.gates import explain, kept_verdict
    from genforge.steps.project import Project

    verdict = kept_verdict(Project.load(), arguments.model)
    print(json.dumps(verdict, indent=2) if arguments.json else explain(verdict))


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="a folder of images, or a uint8 .npy array (images, height, width, channels); of points float32 (n, 2)",
    )
    json_argument(parser)


def _judge(arguments: argparse.Namespace) -> None:
    from genforge.steps.judge import judge, verdict_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    verdict = judge(project, arguments.path)
    print(json.dumps(verdict, indent=2)) if arguments.json else print_table(verdict_table(verdict))


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    names = "a recipe of params.yaml, NAME@ALIAS, NAME/VERSION, or a folder with a trained model"
    parser.add_argument("first", metavar="FIRST", help=names)
    parser.add_argument("second", metavar="SECOND", help="the same")
    parser.add_argument(
        "--out",
        type=new_folder,
        metavar="FOLDER",
        help="of the page: new, empty, or an earlier page's (default: below results/comparisons)",
    )
    json_argument(parser)


def _compare(arguments: argparse.Namespace) -> None:
    from genforge.steps.compare import compare, comparison_table
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    told = compare(project, arguments.first, arguments.second, arguments.out)
    print(json.dumps(told, indent=2)) if arguments.json else print_table(comparison_table(told))


def _drift_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder of images, or a uint8 .npy array")
    parser.add_argument(
        "--out", type=png, default=Path("drift.png"), metavar="FILE.png", help="the picture (default: drift.png)"
    )
    json_argument(parser)


def _drift(arguments: argparse.Namespace) -> None:
    from genforge.steps.drift import drift, in_words
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    found = drift(project, arguments.path, arguments.out)
    print(json.dumps(found, indent=2) if arguments.json else in_words(found))


def _samplers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a trained one of params.yaml that denoises")
    parser.add_argument(
        "--steps",
        type=several(positive),
        default=[5, 10, 20, 50],
        metavar="N,N,...",
        help="numbers of steps (default: 5,10,20,50)",
    )
    parser.add_argument(
        "--samplers", type=several(str), metavar="NAME,NAME,...", help="which (default: all that suit what was trained)"
    )
    json_argument(parser)


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
        print_table(comparison_table(found))
        print(project.samplers(arguments.recipe))


def _ema_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="one of params.yaml, trained with training.averages.snapshots")
    parser.add_argument(
        "--sigma-rel",
        type=several(float),
        default=[0.02, 0.05, 0.1, 0.15, 0.2],
        metavar="LENGTH,LENGTH,...",
        help="lengths of the averages, as shares of training (default: 0.02,0.05,0.1,0.15,0.2)",
    )
    json_argument(parser)


def _ema(arguments: argparse.Namespace) -> None:
    from genforge.locks import alone
    from genforge.steps.averages import averages_table, compare
    from genforge.steps.project import Project

    project = Project.load()
    project.use_threads()
    with alone(project.lock(f"ema@{arguments.recipe}"), f"compare averages of {arguments.recipe}"):
        found = compare(project, arguments.recipe, arguments.sigma_rel)
    print(json.dumps(found.to_json(), indent=2)) if arguments.json else print_table(averages_table(found))


COMMANDS = {
    "leaderboard": Command("show how the models compare", json_argument, _leaderboard),
    "gates": Command("say in words why a model may hold an alias, or may not", _gates_arguments, _gates),
    "judge": Command("score any images against the prepared data", _judge_arguments, _judge),
    "compare": Command("say which of two models is better, and how sure that is", _compare_arguments, _compare),
    "drift": Command("test whether images have drifted away from the prepared data", _drift_arguments, _drift),
    "samplers": Command("compare samplers and steps on a trained denoiser", _samplers_arguments, _samplers),
    "ema": Command("compare lengths of the weights' average after training", _ema_arguments, _ema),
}
