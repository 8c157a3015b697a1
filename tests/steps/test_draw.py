"""Drawing for people: into a grid, an array or a folder, and never over somebody's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genforge.catalog import target
from genforge.files import read_array
from genforge.models import load
from genforge.settings import UserError
from genforge.steps.draw import draw
from tests.trained_models import trained_folder


def test_what_a_seed_gives_is_written_in_every_form(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "gan", "gan")
    expected = load(folder, target).draw(seed=4, count=260)
    draw("gan", 260, 4, tmp_path / "drawn.npy", tmp_path)
    assert np.array_equal(read_array(tmp_path / "drawn.npy"), expected)
    draw("gan", 3, 4, tmp_path / "folder", tmp_path)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    with Image.open(tmp_path / "folder" / "00002.png") as picture:
        assert np.array_equal(np.asarray(picture), expected[2, ..., 0])
    draw("gan", 9, 4, tmp_path / "drawn.png", tmp_path)
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("model", "images", "seed", "out", "rule"),
    [
        ("digits", 1, 0, "x.png", "no model is called 'digits'.*digits@staging"),
        ("gun", 1, 0, "x.png", r"a trained recipe of this project \(did you mean `gan`\?\)"),
        ("full", 1, 0, "x.png", "is no trained model of genforge"),
        ("threes/3", 1, 0, "x.png", "models:/threes/3 cannot be read from .* not found"),
        ("digits@nope", 1, 0, "x.png", "not found"),
        ("digits@staging", 0, 0, "x.png", "1 or more"),
        ("digits@staging", 1, -1, "x.png", "seed"),
        ("digits@staging", 1, 0, "x.jpg", r"\.png or \.npy"),
        ("digits@staging", 1, 0, "full", "not an empty folder"),
        ("gan", 1, 0, "full.npy", "cannot be written"),
        ("gan", 1, 0, "full/mine.txt/x.png", "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_told(tracked: Path, model: str, images: int, seed: int, out: str, rule: str) -> None:
    trained_folder(tracked / "gan", "gan")
    trained_folder(tracked / "results" / "models" / "gan", "gan")
    (tracked / "threes" / "3").mkdir(parents=True)  # a class of images, whose name may be a version's as well
    (tracked / "full").mkdir()
    (tracked / "full.npy").mkdir()
    (tracked / "full" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match=rule):
        draw(model, images, seed, tracked / out, tracked)
    assert (tracked / "full" / "mine.txt").read_text() == "precious"
