"""A params.yaml to begin with, for a data set and a device: behind `genforge preset`.

A preset is a file of `genforge/presets` that holds some of the blocks of params.yaml (`data:`, `recipes:`), comments
and all. They take the place of those blocks in the digits' params.yaml, which is the whole of it; NAME.gpu.yaml is laid
over NAME.yaml in the same way. So a setting that is new in params.yaml is in every preset.
"""

from __future__ import annotations

import re
from pathlib import Path

from genforge.files import write_text
from genforge.settings import UserError, nearest

FOLDER = Path(__file__).parents[1] / "presets"
WHOLE = "digits"  # the preset that holds every block
_KEY = re.compile(r"^([a-z_]+):")


def names() -> list[str]:
    """The presets that there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if "." not in path.stem)


def render(name: str, device: str) -> str:
    """The text of a params.yaml.

    Args:
        device: `cpu` or `gpu`: how large networks are, and how long they train.

    Raises:
        UserError: there is no such preset.
    """
    if name not in names():
        raise UserError(f"no preset is called {name!r}; {nearest(name, names())}")
    text = _read(WHOLE)
    if name != WHOLE:
        for part in (name, f"{name}.gpu") if device == "gpu" else (name,):
            text = _laid_over(text, _read(part))
    return text


def write(name: str, device: str, out: Path, force: bool = False) -> None:
    """Write the preset to `out`; what is there already stays, unless `force` says otherwise.

    Raises:
        UserError: there is no such preset, `out` is there already, or it cannot be written.
    """
    text = render(name, device)
    if out.exists() and not force:
        raise UserError(f"{out} is there already and stays as it is; name another file with --out, or say --force")
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error


def _read(part: str) -> str:
    path = FOLDER / f"{part}.yaml"
    return path.read_text() if path.is_file() else ""  # some presets are the same on every device


def _laid_over(base: str, over: str) -> str:
    """`base` with those blocks that `over` has, in the order of `base`."""
    blocks, others = _blocks(base), _blocks(over)
    if unknown := others.keys() - blocks.keys():
        raise ValueError(f"{WHOLE}.yaml has no {', '.join(sorted(unknown))}")
    return "\n\n".join({**blocks, **others}.values()) + "\n"


def _blocks(text: str) -> dict[str, str]:
    """Top-level key to its text with the comment above it, without blank lines around. Before the first: ``."""
    blocks: dict[str, list[str]] = {"": []}
    current, comment = "", list[str]()
    for line in text.splitlines():
        if found := _KEY.match(line):
            current = found[1]
            blocks[current] = [*comment, line]
            comment = []
        elif line.startswith("#"):
            comment.append(line)
        else:
            blocks[current] += [*comment, line]
            comment = []
    return {key: "\n".join(lines).strip("\n") for key, lines in blocks.items() if any(lines)}
