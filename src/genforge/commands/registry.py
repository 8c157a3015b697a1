"""What holds which alias, moved by hand, and the pages to look at."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from genforge.commands.arguments import Command, json_argument, port, positive, print_table, svg


def _promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="NAME/VERSION, NAME@ALIAS, or NAME for NAME@staging")
    parser.add_argument("--alias", required=True, help="to give it, such as production")
    parser.add_argument("--reason", required=True, help="why, for the history")
    parser.add_argument("--approve", metavar="NAME", help="who has approved it, where registry.approval asks for that")
    json_argument(parser)


def _promote(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import moves_table, promote
    from genforge.steps.project import Project

    move = promote(Project.load(), arguments.model, arguments.alias, arguments.reason, arguments.approve)
    print(json.dumps(move, indent=2)) if arguments.json else print_table(moves_table([move]))


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="NAME", help="the registered model (default: the one of params.yaml)"
    )
    parser.add_argument("--alias", default="staging", help="what goes back (default: staging)")
    parser.add_argument("--to", type=positive, metavar="VERSION", help="that held it once (default: the one before)")
    parser.add_argument("--reason", default="", help="why, for the history")
    json_argument(parser)


def _rollback(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import moves_table, rollback
    from genforge.steps.project import Project

    move = rollback(Project.load(), arguments.model, arguments.alias, arguments.to, arguments.reason)
    print(json.dumps(move, indent=2)) if arguments.json else print_table(moves_table([move]))


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", metavar="NAME", help="the registered model (default: the one of params.yaml)"
    )
    parser.add_argument("--alias", help="the moves of this one alone (default: of all)")
    json_argument(parser)


def _history(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import history, moves_table
    from genforge.steps.project import Project

    project = Project.load()
    model = arguments.model or project.config.data.name
    moves = history(project, model, arguments.alias)
    if arguments.json:
        print(json.dumps(moves, indent=2))
    elif moves:
        print_table(moves_table(moves))
    else:
        print(f"no alias of {model} has ever moved; `genforge run` moves the first aliases")


def _lineage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "alias", nargs="?", metavar="ALIAS", default="staging", help="ALIAS, or NAME@ALIAS (default: staging)"
    )
    parser.add_argument("--out", type=svg, metavar="FILE.svg", help="draw the chain, too")
    json_argument(parser)


def _lineage(arguments: argparse.Namespace) -> None:
    from genforge.steps.lineage import as_json, table, tell
    from genforge.steps.project import Project

    links = tell(Project.load(), arguments.alias, arguments.out)
    print(as_json(links)) if arguments.json else print_table(table(links))


def _ui_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, default=5000, help="of MLflow on 127.0.0.1 (default: 5000)")
    parser.add_argument(
        "--search-port", type=port, metavar="PORT", help="of Optuna's dashboard on 127.0.0.1 (default: --port + 1)"
    )


def _ui(arguments: argparse.Namespace) -> None:
    from genforge.steps.ui import show

    show(Path.cwd(), arguments.port, arguments.search_port or arguments.port % 65535 + 1)


COMMANDS = {
    "promote": Command("give an alias to a registered version, by hand", _promote_arguments, _promote),
    "rollback": Command("give an alias back to the version that held it before", _rollback_arguments, _rollback),
    "history": Command("show who moved which alias when, and why", _history_arguments, _history),
    "lineage": Command(
        "tell where an alias's model comes from: run, recipe, commit, data", _lineage_arguments, _lineage
    ),
    "ui": Command("open MLflow's and Optuna's pages on this machine", _ui_arguments, _ui),
}
