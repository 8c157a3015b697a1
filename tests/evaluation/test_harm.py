"""Detectors flag what they should, and say what is wrong with what they were given."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genforge.contracts import ImageShape
from genforge.evaluation.features import Features
from genforge.evaluation.harm import ClassDetector, OnnxDetector
from genforge.settings import UserError

IMAGES = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8, 1)
NOTHING = Features(np.zeros((5, 1), np.float32), None)


def test_a_class_is_flagged_above_its_threshold(classifier: Callable[..., Any]) -> None:
    extractor = classifier(ImageShape(1, 8, 8))
    names = [str(digit) for digit in range(10)]
    logits = np.zeros((3, 10), np.float32)
    logits[0, 7], logits[1, 7], logits[2, [7, 1]] = 5.0, 1.0, 3.0  # 7 with probability 0.94, 0.23, 0.42
    seen = Features(np.zeros((3, 4), np.float32), logits)

    def flags(unwanted: list[str], threshold: float) -> list[bool]:
        return ClassDetector(extractor, names, unwanted, threshold, "gates.no").flags(IMAGES[:3], seen).tolist()

    assert flags(["7"], 0.5) == [True, False, False]
    assert flags(["7"], 0.2) == [True, True, True]
    assert flags(["7", "1"], 0.5) == [True, False, True]
    with pytest.raises(UserError, match=r"gates\.no\.classes: no class is called '77'; did you mean `7`\?"):
        flags(["77"], 0.5)
    with pytest.raises(UserError, match=r"names no classes.*gates\.no\.onnx"):
        ClassDetector(classifier(ImageShape(1, 8, 8), names_classes=False), names, ["7"], 0.5, "gates.no")
    inception = Features(np.zeros((3, 4), np.float32), np.zeros((3, 1008), np.float32))
    with pytest.raises(UserError, match=r"gates\.no\.classes: .* tells 1008 classes apart, .* not the 10 of"):
        ClassDetector(extractor, names, ["7"], 0.5, "gates.no").flags(IMAGES[:3], inception)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is not None, reason="onnxruntime is installed here")
def test_without_onnxruntime_the_remedy_is_said(tmp_path: Path) -> None:
    (tmp_path / "harm.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"gates\.harm\.onnx: .*harm\.onnx needs .*`pip install onnxruntime`"):
        OnnxDetector(tmp_path / "harm.onnx", [], 0.5, "gates.harm")
    with pytest.raises(UserError, match=r"other\.onnx does not exist"):
        OnnxDetector(tmp_path / "other.onnx", [], 0.5, "gates.harm")


class Session:
    """Stands for onnxruntime's InferenceSession: scores are the mean of an image and its negative."""

    def __init__(self, path: str, providers: list[str]) -> None:
        if Path(path).read_bytes() != b"a network":
            raise RuntimeError("INVALID_PROTOBUF")

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="images")]

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = feed["images"]
        assert images.dtype == np.float32 and images.min() >= -1.0 and images.max() <= 1.0
        if images.shape[1] != 1:
            raise RuntimeError("Got invalid dimensions for input")
        means = images.mean(axis=(1, 2, 3))
        return [np.stack([means, -means], axis=1)]


def test_a_network_of_ones_own_gets_images_as_the_networks_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("onnxruntime")
    module.InferenceSession = Session
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    path = tmp_path / "harm.onnx"
    path.write_bytes(b"a network")
    dark, light = np.zeros((2, 8, 8, 1), np.uint8), np.full((300, 8, 8, 1), 255, np.uint8)
    both = np.concatenate([dark, light])
    assert OnnxDetector(path, [0], 0.5, "g").flags(both, NOTHING).tolist() == [False] * 2 + [True] * 300
    assert OnnxDetector(path, [1], 0.5, "g").flags(both, NOTHING).tolist() == [True] * 2 + [False] * 300
    assert OnnxDetector(path, [], 0.5, "g").flags(both, NOTHING).all()
    with pytest.raises(UserError, match="gives 2 scores"):
        OnnxDetector(path, [2], 0.5, "g").flags(both, NOTHING)
    with pytest.raises(UserError, match=r"does not take float32 \(2, 3, 8, 8\)"):
        OnnxDetector(path, [0], 0.5, "g").flags(dark.repeat(3, axis=3), NOTHING)
    path.write_bytes(b"no network")
    with pytest.raises(UserError, match="cannot be read as ONNX: INVALID_PROTOBUF"):
        OnnxDetector(path, [0], 0.5, "g")
