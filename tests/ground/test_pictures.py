"""Grids put every pixel where it belongs, and PNG gives back what was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genforge.pictures import a_row_a_class, enlarge, factor_to_see, grid, save_png


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 8, 12, 3), dtype=np.uint8)


def test_every_image_is_found_again_in_its_place(images: np.ndarray) -> None:
    picture = grid(images, columns=3, gap=2, enlarged=False)
    assert picture.shape == (3 * 8 + 2 * 2, 3 * 12 + 2 * 2, 3)
    for place, image in enumerate(images):
        top, left = place // 3 * 10, place % 3 * 14
        assert np.array_equal(picture[top : top + 8, left : left + 12], image)
    assert not picture[20:, 14:].any(), "places without an image are black"


def test_a_grid_is_nearly_square_unless_told(images: np.ndarray) -> None:
    assert grid(images, gap=0, enlarged=False).shape == (3 * 8, 3 * 12, 3)


def test_a_row_of_a_class_holds_its_first_images_and_is_black_where_there_are_no_more() -> None:
    images = np.arange(1, 13, dtype=np.uint8)[:, None, None, None].repeat(50, axis=1).repeat(50, axis=2)
    labels = np.array([7, 2, 2, 2, 2, 2, 2, 2, 2, 2, 7, 2])
    picture = a_row_a_class(images, labels)[::51, ::51, 0]
    assert picture.tolist() == [[2, 3, 4, 5, 6, 7, 8, 9], [1, 11, 0, 0, 0, 0, 0, 0]]


def test_enlarging_repeats_pixels_and_shrinking_takes_them_back(images: np.ndarray) -> None:
    large = enlarge(images[0], 5)
    assert large.shape == (40, 60, 3)
    for offset in range(5):
        assert np.array_equal(large[offset::5, offset::5], images[0])


@pytest.mark.parametrize(("side", "factor"), [(8, 6), (28, 2), (47, 2), (48, 1), (64, 1)])
def test_small_images_are_brought_to_a_size_to_see(side: int, factor: int) -> None:
    assert factor_to_see(side, side + 4) == factor


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_value(tmp_path: Path, images: np.ndarray, channels: int) -> None:
    save_png(tmp_path / "picture.png", images[0, ..., :channels])
    back = np.asarray(Image.open(tmp_path / "picture.png")).reshape(8, 12, channels)
    assert np.array_equal(back, images[0, ..., :channels])


def test_what_is_no_picture_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        grid(images.astype(np.float32))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        grid(images[..., :2])
