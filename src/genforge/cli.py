"""`genforge`: one command a step, and the few that people want at hand. The commands themselves are in `commands`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from genforge.commands import drawing, judging, pipeline, registry
from genforge.commands.arguments import EXIT_FAILED, EXIT_USER
from genforge.cores import limit
from genforge.files import write_json
from genforge.settings import UserError

COMMANDS = {**pipeline.COMMANDS, **judging.COMMANDS, **drawing.COMMANDS, **registry.COMMANDS}
REFUSED = (  # what this machine says of a place, whatever program asks
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EDQUOT,
)
LOOKS_BEFORE_SLEEP = 10_000  # a tenth of a millisecond, by libgomp's own reckoning
FAILURE = "GENFORGE_FAILURE"  # a file in which a flow wants to read why a step failed


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
    try:
        set_environment()
        _look_after_runs(Path.cwd())
        COMMANDS[arguments.command].run(arguments)
    except UserError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone. Point standard output at nothing, or the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSED:
            words = f"{error.filename or 'a file'}: {error.strerror}; name another place, or see to this one"
            return _refuse(UserError(words))
        if away := _store_away(error):
            return _refuse(away)
        traceback.print_exc()
        passing = isinstance(error, ConnectionError | TimeoutError)
        _tell_flow("passing" if passing else "failure", "".join(traceback.format_exception_only(error)).strip())
        return EXIT_FAILED
    return 0


def _refuse(error: UserError) -> int:
    """Say in words, here and to the flow, what the user can mend or wait for."""
    print(f"error: {error}", file=sys.stderr)
    _tell_flow("passing" if isinstance(error, ConnectionError) else "user", str(error))
    return EXIT_USER


def _store_away(error: Exception) -> UserError | None:
    """MLflow's error in our words, where its store has gone while a command was at work with it."""
    from genforge.tracking.mlflow_store import as_away

    return as_away(error, Path.cwd())


def _look_after_runs(project: Path) -> None:
    """Before any command: a run whose process was killed does not stay RUNNING."""
    if (project / ".genforge" / "runs").is_dir():
        from genforge.tracking.runs import look_after

        look_after(project)


def set_environment() -> None:
    """Defaults for this process and its children, where the user says nothing else: no telemetry of other packages, no
    chatter of theirs between our lines, and threads that wait awake for a moment alone.

    A step of a small network is hundreds of layers that PyTorch's threads share out, and between two of them they wait.
    As OpenMP has it they do so awake for 3 ms, and where there are more threads than free cores, keep from their work
    those that are waited for: a step that takes ten milliseconds takes a second. Asleep they are harmless, and late at
    every layer: on a quiet machine a step takes two to four times as long. So they stay awake for about as long as a
    layer takes (docs/benchmarks.md).
    """
    threads = limit()  # of what is imported later; NumPy is here: Project.use_threads
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": str(LOOKS_BEFORE_SLEEP)}
    for key, value in {
        **({"OPENBLAS_NUM_THREADS": str(threads)} if threads else {}),
        **waiting,
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


if __name__ == "__main__":
    sys.exit(main())
