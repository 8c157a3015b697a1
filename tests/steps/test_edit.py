"""Drawing from given pictures: what is kept is kept, what is drawn hangs on the seed alone, and mistakes are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genforge import cli
from genforge.catalog import target
from genforge.config import DataSettings
from genforge.contracts import ImageShape
from genforge.files import read_array, write_array
from genforge.models import load
from genforge.settings import UserError
from genforge.steps.draw import draw, labels_of_one
from genforge.steps.edit import Request, edit, read_mask, read_pictures
from tests.trained_models import IMAGE, trained_folder

LEFT = np.s_[:, :, :4]
RIGHT = np.s_[:, :, 4:]


def some_picture(path: Path, seed: int = 0, side: int = 8) -> np.ndarray:
    pixels = np.random.RandomState(seed).randint(256, size=(side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels[..., None]


@pytest.fixture
def denoiser(tmp_path: Path) -> str:
    trained_folder(tmp_path / "results" / "models" / "diffusion", "diffusion")
    return "diffusion"


def test_inpainting_keeps_what_is_not_masked_and_draws_the_rest(tmp_path: Path, denoiser: str) -> None:
    picture = some_picture(tmp_path / "picture.png")
    edit(denoiser, Request(tmp_path / "picture.png", "right"), 5, 3, tmp_path / "drawn.npy", tmp_path)
    drawn = read_array(tmp_path / "drawn.npy")
    assert drawn.shape == (5, 8, 8, 1)
    assert (drawn[LEFT] == picture[None][LEFT]).all()
    assert len({image.tobytes() for image in drawn[RIGHT]}) == 5


def test_an_image_hangs_on_its_number_and_its_picture_alone(tmp_path: Path, denoiser: str) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        some_picture(tmp_path / "pictures" / f"{number}.png", number)
    request = Request(tmp_path / "pictures", strength=0.7)
    edit(denoiser, request, 5, 3, tmp_path / "five.npy", tmp_path)
    edit(denoiser, request, 3, 3, tmp_path / "three.npy", tmp_path)
    assert np.array_equal(read_array(tmp_path / "five.npy")[:3], read_array(tmp_path / "three.npy"))
    edit(denoiser, Request(tmp_path / "pictures" / "1.png", strength=0.7), 2, 3, tmp_path / "one.npy", tmp_path)
    assert np.array_equal(read_array(tmp_path / "one.npy")[1], read_array(tmp_path / "five.npy")[1])


def test_a_mask_s_white_is_drawn_anew(tmp_path: Path) -> None:
    white = np.zeros((8, 8), np.uint8)
    white[2:4, 5] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(str(tmp_path / "mask.png"), IMAGE, DataSettings()), white > 0)
    expected = {"top": (0, 4, 0, 8), "bottom": (4, 8, 0, 8), "left": (0, 8, 0, 4), "right": (0, 8, 4, 8)}
    for name, (top, bottom, left, right) in {**expected, "middle": (2, 6, 2, 6)}.items():
        hole = read_mask(name, IMAGE, DataSettings())
        assert hole[top:bottom, left:right].all() and hole.sum() == (bottom - top) * (right - left)


def test_pictures_become_what_the_model_draws(tmp_path: Path) -> None:
    """As `prepare` would make it: another size is resized, colours become gray and gray becomes colours."""
    Image.new("RGB", (20, 10), (200, 200, 200)).save(tmp_path / "colour.jpg")
    assert read_pictures(tmp_path / "colour.jpg", IMAGE, DataSettings()).tolist() == np.full((1, 8, 8, 1), 200).tolist()
    some_picture(tmp_path / "gray.png")
    assert read_pictures(tmp_path / "gray.png", ImageShape(3, 12, 12), DataSettings()).shape == (1, 12, 12, 3)


def test_a_grid_shows_each_picture_its_hole_and_what_was_drawn(tmp_path: Path, denoiser: str) -> None:
    pictures = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (10, 250)])
    write_array(tmp_path / "pictures.npy", pictures)
    edit(denoiser, Request(tmp_path / "pictures.npy", "left"), 4, 0, tmp_path / "grid.png", tmp_path)
    seen = np.asarray(Image.open(tmp_path / "grid.png"))
    factor = seen.shape[0] // 17  # two rows of 8 pixels and a gap
    rows = [seen[row * 9 * factor : (row * 9 + 8) * factor : factor, ::factor] for row in (0, 1)]
    for level, row in zip((10, 250), rows, strict=True):
        assert row.shape == (8, 4 * 9 - 1)
        assert (row[:, :8] == level).all() and (row[:, 9:13] == 128).all() and (row[:, 13:17] == level).all()
        assert (row[:, 22:26] == level).all() and (row[:, 31:35] == level).all()


@pytest.mark.parametrize(
    ("model", "pictures", "mask", "strength", "rule"),
    [
        ("diffusion", "none.png", None, 0.5, r"none.png does not exist; give an image"),
        ("diffusion", "text.txt", None, 0.5, "not an image"),
        ("diffusion", "wide.npy", None, 0.5, r"should hold uint8 \(n, 8, 8, 1\)"),
        ("diffusion", "empty", None, 0.5, "holds no files"),
        ("diffusion", "picture.png", "lefd", 1.0, "did you mean `left`"),
        ("diffusion", "picture.png", "white.png", 1.0, "all white, so that nothing is kept"),
        ("diffusion", "picture.png", "black.png", 1.0, "all black, so that nothing is drawn"),
        ("diffusion", "picture.png", None, 0.0, "--strength 0: should be above 0"),
        ("diffusion", "picture.png", None, 1.5, "--strength 1.5: should be .* at most 1"),
        ("gan", "picture.png", None, 0.5, "gan draws an image in one pass"),
        ("nothing", "picture.png", None, 0.5, "a trained recipe of this project"),
    ],
)
def test_what_cannot_be_done_is_told(
    tmp_path: Path, denoiser: str, model: str, pictures: str, mask: str | None, strength: float, rule: str
) -> None:
    trained_folder(tmp_path / "results" / "models" / "gan", "gan")
    some_picture(tmp_path / "picture.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    (tmp_path / "text.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    write_array(tmp_path / "wide.npy", np.zeros((1, 8, 9, 1), np.uint8))
    where = str(tmp_path / mask) if mask and mask.endswith(".png") else mask
    with pytest.raises(UserError, match=rule):
        edit(model, Request(tmp_path / pictures, where, strength), 2, 0, tmp_path / "out.png", tmp_path)
    assert not (tmp_path / "out.png").exists()


def test_one_class_is_drawn_by_its_name_or_its_number(tmp_path: Path) -> None:
    trained_folder(tmp_path / "labelled", "diffusion", classes=3)
    some_picture(tmp_path / "picture.png")
    model = load(tmp_path / "labelled", target)
    draw("labelled", 4, 0, tmp_path / "drawn.npy", tmp_path, label="2")
    expected = model.draw(0, 4, labels=torch.full((4,), 2))
    assert np.array_equal(read_array(tmp_path / "drawn.npy"), expected)
    model.card["classes"] = ["cat", "dog", "owl"]
    assert torch.equal(labels_of_one(model, "owl", 2), torch.tensor([2, 2]))
    for label in ("0", "2"):
        request = Request(tmp_path / "picture.png", "left", label=label)
        edit("labelled", request, 3, 0, tmp_path / f"{label}.npy", tmp_path)
    assert not np.array_equal(read_array(tmp_path / "0.npy"), read_array(tmp_path / "2.npy"))
    with pytest.raises(UserError, match="--label cad: is no class of this model; did you mean `cat`"):
        labels_of_one(model, "cad", 1)
    trained_folder(tmp_path / "gan", "gan")
    with pytest.raises(UserError, match="trained without labels"):
        draw("gan", 4, 0, tmp_path / "drawn.npy", tmp_path, label="2")


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--from", "a.png", "--inpaint", "b.png", "--mask", "left"], "exclude each other"),
        (["--inpaint", "b.png"], "belong together"),
        (["--from", "a.png", "--mask", "left"], "belong together"),
        (["--strength", "0.5"], "name the picture"),
    ],
)
def test_options_that_contradict_each_other_are_told(
    words: list[str], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sample", "--model", "diffusion", *words]) == cli.EXIT_USER
    assert rule in capsys.readouterr().err
