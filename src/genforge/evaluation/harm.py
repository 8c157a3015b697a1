"""What must not be drawn: a classifier that flags images, any of one's own or one that the judge has.

What is bounded is P(flagged). It is P(harmful) only as far as the classifier is right: images that it misses are
counted as harmless, so its misses on real images are told beside the bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genforge.evaluation.features import Features
from genforge.files import digest_file
from genforge.settings import UserError, nearest

if TYPE_CHECKING:
    from genforge.evaluation.extractor import Extractor

BATCH = 250


class Detector(ABC):
    """Flags images. about: what it is, in words, for the evidence."""

    about: str

    @abstractmethod
    def flags(self, images: np.ndarray, seen: Features) -> np.ndarray:
        """Which images are harmful, bool (n,).

        Args:
            images: uint8 (n, height, width, channels).
            seen: what the judge's extractor saw in them.
        """


class ClassDetector(Detector):
    """Flags images to which the judge's own classifier gives the unwanted classes a probability above a threshold.

    Raises:
        UserError: the extractor names no classes, or none of this name.
    """

    def __init__(
        self, extractor: Extractor, classes: Sequence[str], unwanted: Sequence[str], threshold: float, where: str
    ) -> None:
        if not extractor.has_logits or not classes:
            raise UserError(
                f"{where}.classes: this data's extractor names no classes; give labels (one folder a class), or a "
                f"classifier of your own (`{where}.onnx`)"
            )
        for name in unwanted:
            if name not in classes:
                raise UserError(f"{where}.classes: no class is called {name!r}; {nearest(name, list(classes))}")
        self.where, self.classes = where, len(classes)
        self.unwanted = [list(classes).index(name) for name in unwanted]
        self.threshold = threshold
        self.about = (
            f"the judge's {extractor.name} ({extractor.digest[:6]}) sees {' or '.join(unwanted)} with probability "
            f"above {threshold:g}"
        )

    def flags(self, images: np.ndarray, seen: Features) -> np.ndarray:
        from scipy.special import softmax

        assert seen.logits is not None
        if not seen.are_told(self.classes):
            raise UserError(
                f"{self.where}.classes: the extractor tells {seen.logits.shape[1]} classes apart, which are not the "
                f"{self.classes} of these data; set extractor.name to classifier, or give a classifier of your own "
                f"(`{self.where}.onnx`)"
            )
        probabilities = softmax(seen.logits.astype(np.float64), axis=1)
        return probabilities[:, self.unwanted].sum(axis=1) > self.threshold


class OnnxDetector(Detector):
    """Flags images by a network in an ONNX file.

    It takes images float32 (n, channels, height, width) in [-1, 1], of the data's own shape, as its first input, and
    gives as its first output float (n,) or (n, k): scores, of which the largest at `outputs` is set against the
    threshold.

    Raises:
        UserError: onnxruntime is not installed, or the file is missing or holds no such network.
    """

    def __init__(self, path: Path, outputs: Sequence[int], threshold: float, where: str) -> None:
        if not path.is_file():
            raise UserError(f"{where}.onnx: {path} does not exist")
        try:
            import onnxruntime
        except ImportError:
            raise UserError(
                f"{where}.onnx: {path} needs the package onnxruntime, which is not installed; "
                f"`pip install onnxruntime`, or name classes of the judge's own classifier (`{where}.classes`)"
            ) from None
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class of their own
            raise UserError(f"{where}.onnx: {path} cannot be read as ONNX: {error}") from error
        self.path, self.where, self.outputs, self.threshold = path, where, list(outputs), threshold
        self.about = f"{path.name} ({digest_file(path)[:6]}) gives a score above {threshold:g}"

    def flags(self, images: np.ndarray, seen: Features) -> np.ndarray:
        parts = [self._scores(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return np.concatenate(parts) > self.threshold

    def _scores(self, images: np.ndarray) -> np.ndarray:
        ready = images.transpose(0, 3, 1, 2).astype(np.float32)
        if images.dtype == np.uint8:  # points are in [-1, 1] already
            ready = ready / 127.5 - 1.0
        try:
            scores = np.asarray(self.session.run(None, {self.session.get_inputs()[0].name: ready})[0])
        except Exception as error:  # a wrong shape inside the user's network, whatever it raises
            raise UserError(
                f"{self.where}.onnx: {self.path} does not take float32 {ready.shape} (n, channels, height, width): "
                f"{error}"
            ) from error
        scores = scores.reshape(len(images), -1)
        if self.outputs and max(self.outputs) >= scores.shape[1]:
            raise UserError(f"{self.where}.outputs: {self.outputs}, but {self.path} gives {scores.shape[1]} scores")
        found = (scores[:, self.outputs] if self.outputs else scores).max(axis=1)
        if not np.isfinite(found).all():
            raise UserError(f"{self.where}.onnx: {self.path} gives scores that are not finite")
        return found
