"""Which source files a module needs: the closure of its imports inside this package, read without running it.

Two things rest on it: a recipe's digest changes with the code that it uses and with no other, and a registered model
carries the source that it needs to draw images and nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from genforge.files import digest_bytes

PACKAGE = Path(__file__).parent
NAME = PACKAGE.name
WITHOUT_EFFECT = (f"{NAME}.processes", f"{NAME}.progress")  # modules on which no result depends


def closure(modules: Iterable[str]) -> dict[str, Path]:
    """Modules of this package that `modules` need to run, themselves included: dotted name to file, sorted by name.

    Imports inside functions count too; imports under `if TYPE_CHECKING:` do not.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _file_of(module)
        if module in found or path is None:
            continue
        found[module] = path
        waiting.extend(_imported(path))
        if "." in module:
            waiting.append(module.rpartition(".")[0])  # a package's __init__ runs before its modules
    return dict(sorted(found.items()))


def code_digest(modules: Iterable[str]) -> str:
    """Digest of the source that `modules` need, but for what has no part in any result: who runs, and what is shown.
    Comments count: bytes are compared."""
    files = {name: path for name, path in closure(modules).items() if name not in WITHOUT_EFFECT}
    return digest_bytes(*(part for name, path in files.items() for part in (name.encode(), path.read_bytes())))


def _file_of(module: str) -> Path | None:
    head, *parts = module.split(".")
    if head != NAME:
        return None
    base = PACKAGE.joinpath(*parts)
    if (base / "__init__.py").is_file():
        return base / "__init__.py"
    file = base.with_suffix(".py")
    return file if parts and file.is_file() else None


@cache
def _imported(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    waiting: list[Any] = [ast.parse(path.read_text("utf-8"))]  # statements, and what has some inside
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
        for inside in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting.extend(getattr(node, inside, ()))
    return tuple(name for name in names if name.split(".")[0] == NAME)
