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
    if not text.endswith(".png") or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"should be a file whose name ends with .png, not {text!r}")
    return _with_room(Path(text))


def folder(text: str) -> Path:
    """A folder to write into, for argparse."""
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"should be a folder, and {text!r} is a file")
    return _with_room(Path(text))


def _with_room(path: Path) -> Path:
    """The path, when something may be made there."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK) or (there != path and not there.is_dir()):
        raise argparse.ArgumentTypeError(f"{str(path)!r} cannot be written: {there} is no folder that you may write to")
    return path


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
