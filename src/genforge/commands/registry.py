"""What holds which alias, moved by hand, and the pages to look at."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from genforge.commands.arguments import Command, json_argument, port, positive, print_table
from genforge.progress import say


def _promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="NAME/VERSION, NAME@ALIAS, or NAME for NAME@staging")
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
    parser.add_argument("model", nargs="?", help="the registered model (default: the one of params.yaml)")
    parser.add_argument("--alias", default="staging", help="which goes back (default: staging)")
    parser.add_argument("--to", type=positive, metavar="VERSION", help="that held it once (default: the one before)")
    parser.add_argument("--reason", default="", help="why, for the history")
    json_argument(parser)


def _rollback(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import moves_table, rollback
    from genforge.steps.project import Project

    move = rollback(Project.load(), arguments.model, arguments.alias, arguments.to, arguments.reason)
    print(json.dumps(move, indent=2)) if arguments.json else print_table(moves_table([move]))


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="the registered model (default: the one of params.yaml)")
    parser.add_argument("--alias", help="of this alone (default: of all)")
    json_argument(parser)


def _history(arguments: argparse.Namespace) -> None:
    from genforge.steps.aliases import history, moves_table
    from genforge.steps.project import Project

    moves = history(Project.load(), arguments.model, arguments.alias)
    if arguments.json:
        print(json.dumps(moves, indent=2))
    elif moves:
        print_table(moves_table(moves))
    else:
        print("no alias has ever moved; `genforge run` moves the first ones")


def _ui_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, default=5000, help="of the MLflow UI on 127.0.0.1 (default: 5000)")


def _ui(arguments: argparse.Namespace) -> None:
    from genforge.tracking.runs import ui_command

    command, environment = ui_command(Path.cwd(), arguments.port)
    say(f"MLflow UI: http://127.0.0.1:{arguments.port}  (Ctrl-C ends it)")
    os.execve(command[0], command, environment)  # noqa: S606  a list of arguments: no shell sees it


COMMANDS = {
    "promote": Command("give an alias to a registered version, by hand", _promote_arguments, _promote),
    "rollback": Command("give an alias back to the version that held it before", _rollback_arguments, _rollback),
    "history": Command("show who moved which alias when, and why", _history_arguments, _history),
    "ui": Command("open the MLflow UI on this machine", _ui_arguments, _ui),
}
