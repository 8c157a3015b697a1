"""What leaves says where it came from, and `genforge provenance` reads it, also when text or pixels were changed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console

from genforge import provenance
from genforge.contracts import ImageShape
from genforge.files import read_array
from genforge.models import digest
from genforge.provenance import Provenance
from genforge.registry.registry import Registry
from genforge.settings import UserError
from genforge.steps.draw import draw, draw_between, draw_trajectory
from genforge.steps.provenance import examine, finding_table
from tests.trained_models import trained_folder


@pytest.fixture
def registered(tracked: Path) -> tuple[Path, str]:
    """A project whose registry holds digits/1, 64x64, as staging; and the digest of its weights."""
    folder = trained_folder(tracked / "gan", "gan", image=ImageShape(3, 64, 64))
    registry = Registry(tracked, "digits")
    version, _ = registry.register(folder, {"fid": {"mean": 1.0, "std": 0.1}}, "p", {"recipe": "gan"})
    registry.move("staging", version.number, None, "for the test")
    return tracked, digest(folder)


def test_every_png_says_which_image_of_which_model_it_is(registered: tuple[Path, str]) -> None:
    root, weights = registered
    draw("models:/digits@staging", 3, 4, root / "folder", root)
    draw("digits/1", 5, 4, root / "grid.png", root)
    draw("digits@staging", 3, 4, root / "raw.npy", root)
    for number in range(3):
        finding = examine(root / "folder" / f"{number:05d}.png", root)
        assert finding.text == Provenance("digits", 1, weights, seed=4, index=number)
        assert finding.mark.is_found and not finding.disagrees
        assert finding.versions == ["digits/1"]
        with Image.open(root / "folder" / f"{number:05d}.png") as picture:
            error = np.asarray(picture).astype(float) - read_array(root / "raw.npy")[number]
            assert 0 < (error**2).mean() < 4
    finding = examine(root / "grid.png", root)
    assert finding.text == Provenance("digits", 1, weights, 4, 0, images=5, columns=3)
    assert (finding.parts, finding.marked) == (5, 5)


def test_a_class_that_was_asked_for_is_said(tmp_path: Path) -> None:
    trained_folder(tmp_path / "gan", "gan", classes=3)
    draw("gan", 2, 4, tmp_path / "folder", tmp_path, label="2")
    finding = examine(tmp_path / "folder" / "00001.png", tmp_path)
    assert finding.text is not None and (finding.text.label, finding.text.index, finding.text.seed) == (2, 1, 4)


def test_a_copy_without_text_is_known_by_its_pixels(registered: tuple[Path, str]) -> None:
    root, weights = registered
    draw("digits@staging", 1, 0, root / "folder", root)
    with Image.open(root / "folder" / "00000.png") as picture:
        picture.save(root / "copy.jpg", quality=75)
    finding = examine(root / "copy.jpg", root)
    assert finding.text is None and finding.mark.digits == weights[:4]
    assert finding.versions == ["digits/1"]


def test_every_tile_of_a_strip_holds_the_mark(tmp_path: Path) -> None:
    for family in ("gan", "diffusion"):
        trained_folder(tmp_path / family, family, image=ImageShape(1, 64, 64))
    draw_between("gan", 2, 3, 4, None, tmp_path / "between.png", tmp_path)
    draw_trajectory("diffusion", 1, 2, 4, tmp_path / "way.png", tmp_path)
    for name, way, tiles in (("between", "interpolation", 6), ("way", "trajectory", 4)):
        finding = examine(tmp_path / f"{name}.png", tmp_path)
        assert finding.text is not None and (finding.text.way, finding.text.images) == (way, tiles)
        assert (finding.parts, finding.marked) == (tiles, tiles)
        assert f"image 0 on, {tiles} tiles, {way}" in str(list(finding_table(finding).columns[1].cells))


def test_text_that_was_changed_is_told(registered: tuple[Path, str]) -> None:
    root, _ = registered
    draw("digits@staging", 1, 0, root / "folder", root)
    with Image.open(root / "folder" / "00000.png") as picture:
        pixels = np.asarray(picture)
    (root / "forged.png").write_bytes(provenance.png(pixels, Provenance("art", 9, "f" * 32, 0, 0)))
    assert examine(root / "forged.png", root).disagrees


def test_a_picture_of_somebody_elses_says_nothing(tracked: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(tracked / "mine.png")
    finding = examine(tracked / "mine.png", tracked)
    assert not finding.says_anything and finding.versions == []
    (tracked / "notes.txt").write_text("not a picture")
    for name, rule in (("notes.txt", "no picture"), ("absent.png", "No such file"), (".", "cannot be read")):
        with pytest.raises(UserError, match=rule):
            examine(tracked / name, tracked)


@pytest.mark.parametrize("text", [{}, {"genforge.weights": "x"}, {"genforge.model": "m", "genforge.seed": "1"},
                                  {"genforge.weights": "ab", "genforge.colour": "red"}])  # fmt: skip
def test_text_that_is_not_ours_is_no_provenance(text: dict[str, str]) -> None:
    assert Provenance.from_text(text) is None


def test_points_that_are_served_are_numbers_with_the_same_words() -> None:
    points = np.array([[0.5, -1.0], [0.25, 2.0]], np.float32).reshape(2, 1, 1, 2)
    answers = provenance.served(points, [None, 3], Provenance("rings", 2, "ab" * 16, seed=1, index=5))
    assert [answer["point"] for answer in answers] == [[0.5, -1.0], [0.25, 2.0]]
    assert [(answer["index"], answer["label"], answer["version"]) for answer in answers] == [(5, None, 2), (6, 3, 2)]


def test_text_and_back() -> None:
    for said in (Provenance("digits", 3, "ab" * 16, 2**63 - 1, 7, 0), Provenance("gan", None, "0" * 32, 0, 0),
                 Provenance("gan", None, "0" * 32, 0, 0, "Ärzte", way="inpainting"),
                 Provenance("a", 1, "f" * 32, 1, 5, images=9, columns=3)):  # fmt: skip
        assert Provenance.from_text(said.to_text()) == said


def test_sampling_makes_no_registry_in_somebodys_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="no registry is known here"):
        draw("digits@staging", 1, 0, tmp_path / "grid.png", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_stranger_wrote_into_a_file_is_shown_and_nothing_else(tmp_path: Path) -> None:
    said = {"model": "[/] [red]", "weights": "abcd", "seed": "1", "index": "2", "images": "1", "columns": "3"}
    changes = ({}, {"images": "1" + "0" * 400}, {"weights": "abcd' OR name LIKE '%"}, {"weights": "abcd[/bold]"})
    for number, change in enumerate(changes):
        text = PngInfo()
        for key, value in {**said, **change}.items():
            text.add_text(f"genforge.{key}", value)
        path = tmp_path / f"{number}.png"
        Image.new("L", (64, 64), 90).save(path, pnginfo=text)
        finding = examine(path, tmp_path)
        console = Console(file=io.StringIO(), width=2000)
        console.print(finding_table(finding))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("[/] [red]" in shown) == (finding.text is not None) == ("weights" not in change)
        json.dumps(finding.to_json())
        assert finding.parts == 1
