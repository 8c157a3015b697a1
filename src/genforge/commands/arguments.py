"""What every command is made of: its help, its arguments, a plain function; and the kinds of arguments that they share.

Everything heavy is imported inside the functions, so that `genforge --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from genforge.files import try_folder
from genforge.progress import PIPED_COLUMNS

T = TypeVar("T")
EXIT_USER, EXIT_FAILED = 2, 1


@dataclass(frozen=True)
class Command:
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number, 1 or more, not {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A sampling seed, for argparse."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"should be a whole number from 0 to 2^63 - 1, not {text!r}")
    return int(text)


def png(text: str) -> Path:
    """A picture to write, for argparse: what it is cannot be told when the work has been done."""
    return _picture(text, ".png")


def svg(text: str) -> Path:
    """A drawing to write, for argparse."""
    return _picture(text, ".svg")


def _picture(text: str, ending: str) -> Path:
    if not text.endswith(ending) or os.path.isdir(text):  # noqa: PTH112  pathlib's raises where nobody may look
        raise argparse.ArgumentTypeError(f"should be a file whose name ends with {ending}, not {text!r}")
    return place(text)


def folder(text: str) -> Path:
    """A folder to write files into, for argparse."""
    return _writable(_no_file(text), Path(text))


def new_folder(text: str) -> Path:
    """A folder to make, or to put in the place of one, for argparse. What may be in that one, its step knows."""
    return place(_no_file(text))


def place(text: str) -> Path:
    """A file or a folder to make, for argparse."""
    return _writable(text, Path(text).absolute().parent)


def _no_file(text: str) -> str:
    if os.path.isfile(text):  # noqa: PTH113  as above
        raise argparse.ArgumentTypeError(f"should be a folder, and {text!r} is a file")
    return text


def _writable(text: str, within: Path) -> Path:
    """The path, when files can be made in the folder `within`, or where that would be made."""
    try:
        try_folder(within)
    except OSError as error:
        why = f"nothing can be made in {error.filename} ({error.strerror})"
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {why}; name another place") from None
    return Path(text)


def several(one: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Several of what `one` reads, with commas between them, for argparse."""

    def read(text: str) -> list[T]:
        return [one(part.strip()) for part in text.split(",")]

    read.__name__ = f"{one.__name__}s"
    return read


def port(text: str) -> int:
    """A port, for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"should be a port from 1 to 65535, not {text!r}")
    return int(text)


def json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def print_table(table: object) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS).print(table)
