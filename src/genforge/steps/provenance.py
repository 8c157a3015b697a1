"""Where a picture came from, by what its text says and by its watermark: behind `genforge provenance`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge import watermark
from genforge.pictures import tiles
from genforge.provenance import Provenance, read_text
from genforge.settings import UserError

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MOST_PIXELS = 64_000_000  # of a picture that is looked at


@dataclass(frozen=True)
class Finding:
    """text: what the file says of itself, None: nothing. mark: what is in its pixels. parts, marked: of how many images
    that the file shows, and how many of them hold the mark. versions: registered versions with these weights;
    unknown: why they could not be looked up."""

    path: Path
    text: Provenance | None
    mark: watermark.Mark
    parts: int
    marked: int
    versions: list[str]
    unknown: str = ""

    @property
    def says_anything(self) -> bool:
        return self.text is not None or self.mark.is_found

    @property
    def disagrees(self) -> bool:
        """The text names other weights than the pixels do: one of them was changed."""
        return self.text is not None and self.mark.is_found and self.text.word != self.mark.word

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "text": None if self.text is None else dict(vars(self.text)),
            "watermark": {
                "found": self.mark.is_found,
                "weights": self.mark.digits if self.mark.is_found else None,
                "chance": self.mark.chance,
                "images": self.parts,
                "marked": self.marked,
            },
            "versions": self.versions,
            "disagrees": self.disagrees,
        }


def examine(path: Path, root: Path = Path()) -> Finding:
    """What the picture at `path` says of where it came from.

    Raises:
        UserError: it is no picture that can be read.
    """
    text, pixels = _read(path)
    parts = [pixels] if text is None or text.images == 1 else tiles(pixels, text.images, text.columns)
    marks = [watermark.detect(part) for part in parts]
    mark = min(marks, key=lambda mark: mark.chance)
    marked = sum(each.is_found and each.word == mark.word for each in marks)
    digest = mark.digits if mark.is_found else text.weights if text is not None else ""
    versions, unknown = _versions(root, digest) if digest else ([], "")
    return Finding(path, text, mark, len(parts), marked, versions, unknown)


def finding_table(finding: Finding) -> Table:
    """The finding for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    if finding.text is None:
        table.add_row("text", "says nothing of genforge")
    else:
        said = finding.text
        number = "" if said.version is None else f" version {said.version}"
        last = f" to {said.index + said.images - 1}" if said.images > 1 else ""
        label = "" if said.label is None else f", label {said.label}"
        if said.way and said.images > 1:  # a tile of a strip is a moment or a place of an image, not an image
            last = f" on, {said.images} tiles"
        way = f", {said.way}" if said.way else ""
        words = f"{said.model}{number}, seed {said.seed}, image {said.index}{last}{label}{way}"
        table.add_row("text", Text(words))  # anybody may have written it: no markup
        table.add_row("", Text(f"weights {said.weights}"))
    mark = finding.mark
    if mark.is_found:
        share = f", in {finding.marked} of {finding.parts} images" if finding.parts > 1 else ""
        table.add_row(
            "watermark", f"weights {mark.digits}...{share}; by chance: less than {max(mark.chance, 1e-99):.0e}"
        )
    else:
        table.add_row(
            "watermark", f"none (images of less than {watermark.LEAST_SIDE}x{watermark.LEAST_SIDE} hold none)"
        )
    if finding.disagrees:
        table.add_row("", "TEXT AND WATERMARK NAME DIFFERENT WEIGHTS: one of them was changed")
    if finding.says_anything:
        known = ", ".join(finding.versions) or "no registered version has these weights"
        table.add_row("registry", Text(finding.unknown or known))
    return table


def _read(path: Path) -> tuple[Provenance | None, np.ndarray]:
    """The text and the pixels, uint8 (height, width, 1 or 3)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UserError(f"{path}: {picture.width}x{picture.height} pixels are more than {MOST_PIXELS:,}")
            text = read_text(picture)
            pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA", "I;16") else "RGB"))
    except UnidentifiedImageError:
        raise UserError(f"{path}: is no picture that can be read ({', '.join(FORMATS)})") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path}: cannot be read: {reason}") from None
    return text, pixels if pixels.ndim == 3 else pixels[..., None]


def _versions(root: Path, digest: str) -> tuple[list[str], str]:
    from genforge.registry.origins import versions_of

    try:
        return versions_of(root, digest), ""
    except UserError as error:
        return [], str(error)
