"""A params.yaml to begin with, for a data set and a device: behind `genforge preset`.

A preset is a file of `genforge/presets` that holds some of the blocks of params.yaml (`data:`, `recipes:`), comments
and all. They take the place of those blocks in the digits' params.yaml, which is the whole of it; NAME.gpu.yaml is laid
over NAME.yaml in the same way. So a setting that is new in params.yaml is in every preset.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import yaml

from genforge.files import write_text
from genforge.settings import UserError, nearest
from genforge.shapes import SMALLEST

FOLDER = Path(__file__).parents[1] / "presets"
WHOLE = "digits"  # the preset that holds every block
DEVICES = ("cpu", "gpu")
SOUND = 0.95  # share of a folder's files that are counted on to be images, each of its own
LOOKED_AT = 64  # files of a folder, at most, whose heads say what its images are
GRAY = ("1", "L", "LA", "I;16")  # modes of Pillow
LEAST = 50  # held-out images that the judge needs
_NO_NAME = re.compile(r"^[^a-z]+|[^a-z0-9]+")  # what cannot stand in a name, see config.NAME_RULE
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


def write(name: str, device: str, out: Path, force: bool = False, folder: Path | None = None) -> list[str]:
    """Write the preset to `out`. What somebody has written there stays, unless `force` says otherwise; a preset that is
    as it was written holds nothing of anybody's.

    Args:
        folder: of the images, for presets that read one; None: the preset's own.

    Returns:
        What was fitted to the folder, a sentence each.

    Raises:
        UserError: there is no such preset, it reads no folder, `out` is there already, or it cannot be written.
    """
    text, fitted = _fitted(render(name, device), folder, out.parent)
    if out.exists() and not force and not _is_preset(out):
        raise UserError(f"{out} is there already and stays as it is; name another file with --out, or say --force")
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    return fitted


def _is_preset(path: Path) -> bool:
    """Whether a file is a preset as it was written."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return any(text == render(name, device) for name in names() for device in DEVICES)


def _fitted(text: str, folder: Path | None, root: Path) -> tuple[str, list[str]]:
    """A preset's text with what the folder of images says, and what that is, in words.

    Args:
        folder: None: the one that the text names. root: what that is relative to.
    """
    values = yaml.safe_load(text)
    if values["data"]["source"] != "image_folder":
        if folder is not None:
            raise UserError(f"--folder: {values['data']['name']} reads no folder of images; the preset my-images does")
        return text, []
    said = []
    if folder is not None:
        text = _with(text, "data", "folder", _quoted(str(folder)))
        if name := _NO_NAME.sub("-", folder.name.partition(".")[0].lower())[:64].strip("-"):
            text = _with(text, "data", "name", _quoted(name))
            said.append(f"the model is called {name} (data.name)")
    place = root / (folder or values["data"]["folder"])
    if not place.is_dir():  # an archive, which nobody unpacks for this, or still to come
        if folder is not None and not place.exists():
            said.append(f"{place} is not there yet, so that nothing is fitted to it")
        return text, said
    from genforge.data.image_folder import files_below  # brings polars, for which `genforge --help` has no time

    files = list(files_below(place))
    text, seen = _fitted_to_looks(text, values["data"], [place / file for file in files])
    said += seen
    count, wanted = len(files), values["evaluation"]["images"]
    held_out = int(SOUND * values["data"]["test"] * count) // 10 * 10
    if held_out < wanted:
        images = max(held_out, LEAST)
        text = _with(text, "evaluation", "images", str(images))
        said.append(f"{place} holds {count} files, so that {images} held-out ones judge (evaluation.images)")
    if held_out < LEAST:
        said.append(
            f"warning: {count} files are few; the judge needs {LEAST} held-out ones: add some, or raise data.test"
        )
    return text, said


def _fitted_to_looks(text: str, data: dict[str, Any], files: list[Path]) -> tuple[str, list[str]]:
    """A preset's text with the channels and the side that its images have by themselves, where some of them, from all
    over the folder, agree on it; and what that is, in words. Only the head of each file is read. A side above the
    preset's own would take more time than it is sized for, and stays to be chosen."""
    from PIL import Image

    gray, sizes = True, set()
    for file in filter(Path.is_file, files[:: -(-len(files) // LOOKED_AT) or 1]):
        with (
            contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError),  # prepare tells why
            Image.open(file) as head,
        ):
            sizes.add(head.size)
            gray = gray and head.mode in GRAY
    said = []
    if sizes and gray and data["channels"] == 3:
        text = _with(text, "data", "channels", "1")
        said.append("the images are gray, and so will be those that are drawn (data.channels)")
    side = next(iter(sizes))[0] if len(sizes) == 1 else 0
    if sizes == {(side, side)} and SMALLEST <= side < data["image_size"] and side % 4 == 0:
        text = _with(text, "data", "image_size", str(side))
        said.append(f"all that were looked at are {side}x{side}, and stay so (data.image_size)")
    return text, said


def _quoted(text: str) -> str:
    """A text as a value in YAML, in quotes where it needs them, as `no` does."""
    return yaml.safe_dump(text, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def _with(text: str, block: str, key: str, value: str) -> str:
    """The text with another value for a key of a top-level block; comments stay where they are, as far as they can."""
    before, head, after = text.partition(f"\n{block}:")

    def changed(found: re.Match[str]) -> str:
        room = len(found[2]) + len(found[3])
        return f"{found[1]}{value:{room}}{'' if len(value) < room or not found[4] else ' '}{found[4]}"

    rest, count = re.subn(rf"(?m)^(  {key}: *)(\S+)( *)(.*)$", changed, after, count=1)
    if not count:
        raise ValueError(f"the preset's {block} has no {key}")
    return before + head + rest


def _read(part: str) -> str:
    path = FOLDER / f"{part}.yaml"
    return path.read_text("utf-8") if path.is_file() else ""  # some presets are the same on every device


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
