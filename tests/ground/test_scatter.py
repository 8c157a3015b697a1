"""Pictures of the plane: a dot lies where its point does, and a function's values where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from genforge import scatter
from genforge.pictures import POINTS_TO_SEE, enough, film, sheet


def darkest(panel: np.ndarray) -> tuple[int, int]:
    inside = panel[2:-2, 2:-2].sum(axis=2)
    row, column = np.unravel_index(inside.argmin(), inside.shape)
    return int(row) + 2, int(column) + 2


@pytest.mark.parametrize("point", [(0.0, 0.0), (0.5, 0.8), (-0.9, 0.1), (0.3, -0.6)])
def test_a_dot_lies_where_its_point_does(point: tuple[float, float]) -> None:
    row, column = darkest(scatter.scatter(np.float32([point])))
    x = ((column + 0.5) / scatter.SIDE * 2 - 1) * scatter.REACH
    y = -((row + 0.5) / scatter.SIDE * 2 - 1) * scatter.REACH
    assert (x, y) == pytest.approx(point, abs=0.02)


def test_points_beyond_the_picture_leave_it_empty() -> None:
    assert np.array_equal(scatter.scatter(np.float32([[7.0, 0.0], [0.0, -1e9]])), scatter.scatter(np.zeros((0, 2))))


def test_values_stand_where_they_were_asked_for() -> None:
    """The places of a function are in the order in which its picture wants the values: y upwards."""
    places = scatter.places(50)
    panel = scatter.heat((places[:, 0] + 2 * places[:, 1]).reshape(50, 50)).astype(int).sum(axis=2)
    corners = {"bottom left": panel[-9, 8], "bottom right": panel[-9, -9], "top left": panel[8, 8]}
    assert corners["bottom left"] < corners["bottom right"] < corners["top left"] < panel[8, -9]
    with pytest.raises(ValueError, match="not finite"):
        scatter.heat(np.full((3, 3), np.nan))


def test_a_sheet_shows_images_as_images_and_points_beside_real_ones() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    points = np.zeros((4, 1, 1, 2), np.float32)
    assert sheet(images).shape[2] == 1
    assert sheet(points).shape == (scatter.SIDE, scatter.SIDE, 3)
    assert sheet(points, real=points).shape == (scatter.SIDE + scatter.TITLE, 2 * scatter.SIDE + scatter.GAP, 3)
    looks = [(f"step {step}", points) for step in (1, 2, 3)]
    assert film(looks, 8).shape[1] == 3 * scatter.SIDE + 2 * scatter.GAP
    assert (enough("uint8", 64), enough("float32", 64)) == (64, POINTS_TO_SEE)


def test_the_picture_of_a_density_tells_how_much_of_it_is_in_view() -> None:
    places = scatter.places(100).astype(float)
    normal = -(places**2).sum(axis=1) / (2 * 0.2**2) - np.log(2 * np.pi * 0.2**2)
    assert scatter.log_density(normal)[1] == "log-density, 1.000 of all in view"
    assert scatter.log_density(normal + np.log(0.5))[1] == "log-density, 0.500 of all in view"
    assert scatter.log_density(normal, normalised=False)[1] == "minus energy"
