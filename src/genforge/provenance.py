"""What an image says of where it came from: model, version, weights, seed and number.

A PNG holds it as text chunks, a keyword each (PNG specification, 3rd edition, 11.3.3), so that any viewer shows it. An
image of 64x64 and more also holds the first 16 bits of the digest of the weights as a watermark (`watermark.py`), which
stays when the text is lost. Neither is a signature: who means to can change both.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from genforge import watermark
from genforge.pictures import as_picture

PREFIX = "genforge."  # of our keywords
DIGEST = re.compile(rf"[0-9a-f]{{{watermark.BITS // 4},128}}")  # what is looked for in the registry is nothing else
SOFTWARE = "genforge: drawn by a generative model"  # under PNG's own keyword Software


@dataclass(frozen=True)
class Provenance:
    """Where an image came from.

    model: the registered model's name, or that of a trained folder. version: its number there, None outside of a
    registry. weights: hex digest of all that its images depend on (`models.digest`). seed, index: image `index` of
    `seed` is this image, each time it is drawn. label: the class that was asked for, None where none was. way: how it
    was drawn, such as `inpainting`; empty: from noise alone. images: how many, from `index` on, a picture holds that
    shows several in `columns` columns.
    """

    model: str
    version: int | None
    weights: str
    seed: int
    index: int
    label: int | str | None = None  # its number or name, as it was asked for
    way: str = ""
    images: int = 1
    columns: int = 1

    @property
    def word(self) -> int:
        """What the watermark says: the first 16 bits of the digest."""
        return _word(self.weights)

    def of(self, index: int) -> Provenance:
        """The same for another image of this seed."""
        return replace(self, index=index)

    def to_text(self) -> dict[str, str]:
        """Keyword to text."""
        values = {key: value for key, value in asdict(self).items() if value not in (None, "")}
        if self.images == 1:
            del values["images"], values["columns"]
        return {"Software": SOFTWARE, **{PREFIX + key: str(value) for key, value in values.items()}}

    @classmethod
    def from_text(cls, text: Mapping[str, str]) -> Provenance | None:
        """None where the text says nothing of the kind, or nothing that could be true."""
        values: dict[str, Any] = {
            key.removeprefix(PREFIX): value for key, value in text.items() if key.startswith(PREFIX)
        }
        numbers = {"version", "seed", "index", "images", "columns"} & values.keys()
        numbers |= {"label"} if values.get("label", "").isdecimal() else set()
        try:
            if not DIGEST.fullmatch(values["weights"]):
                return None
            return cls(**{"version": None, **values, **{key: int(values[key]) for key in numbers}})
        except (KeyError, TypeError, ValueError):
            return None


def _word(weights: str) -> int:
    """The first bits of a digest, as many as the watermark holds. Raises ValueError when it is no digest."""
    return int(weights[: watermark.BITS // 4], 16)


def mark(images: np.ndarray, provenance: Provenance) -> np.ndarray:
    """uint8 (n, height, width, channels) with the watermark of these weights, where the images are large enough."""
    return watermark.embed(images, provenance.word) if watermark.can_hold(*images.shape[1:3]) else images


def png(image: np.ndarray, provenance: Provenance) -> bytes:
    """`image`, uint8 (height, width, channels), as a PNG file that says where it came from. Its pixels stay."""
    text = PngInfo()
    for keyword, value in provenance.to_text().items():
        text.add_text(keyword, value)
    buffer = io.BytesIO()
    as_picture(image).save(buffer, format="PNG", optimize=True, pnginfo=text)
    return buffer.getvalue()


def served(images: np.ndarray, labels: list[int | None], first: Provenance) -> list[dict[str, Any]]:
    """What a server answers: an object an image, with the marked PNG in base64 and the same words beside it. Points
    have no picture: they come as `point`, their numbers.

    Args:
        images: uint8 (n, height, width, channels), or points float32 (n, 1, 1, 2): images `first.index` to
            `first.index + n - 1` of a seed.
        labels: of each image, None where none was asked for.
    """
    answers = []
    for number, (image, label) in enumerate(zip(mark(images, first), labels, strict=True)):
        own = replace(first, index=first.index + number, label=label)
        words = {key: value for key, value in asdict(own).items() if key not in ("way", "images", "columns")}
        if image.dtype == np.uint8:
            answers.append({"png": base64.b64encode(png(image, own)).decode("ascii"), **words})
        else:
            answers.append({"point": image.ravel().tolist(), **words})
    return answers


def read_text(picture: Image.Image) -> Provenance | None:
    """What the text of an opened picture says."""
    text = {str(key): str(value) for key, value in picture.info.items() if isinstance(value, str)}
    return Provenance.from_text(text)
