"""Points of the plane: where each shape's points lie, and that nothing is rounded on their way to the networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genforge.config import Config, DataSettings
from genforge.contracts import POINT, to_network, to_stored
from genforge.data import points
from genforge.data.loading import DeviceData, Prepared
from genforge.data.preparation import prepare
from genforge.data.sources import Places, ingest
from genforge.files import read_array
from genforge.settings import UserError


def prepared(folder: Path, **settings: object) -> Prepared:
    chosen = DataSettings.read({"name": "points", "source": "points", "count": 600, **settings}, "data")
    for name in ("raw", "prepared"):
        (folder / name).mkdir(parents=True)
    ingest(chosen, Places(folder / "absent", folder / "absent", seed=3), folder / "raw")
    prepare(folder / "raw", folder / "absent", folder / "prepared", chosen, seed=3)
    return Prepared.open(folder / "prepared")


@pytest.mark.parametrize("shape", points.SHAPES)
def test_a_shape_lies_in_the_square_with_all_its_parts_alike(shape: str) -> None:
    drawn = points.draw(shape, 4000, None, seed=0)
    assert drawn.points.shape == (4000, 2) and drawn.points.dtype == np.float32
    assert np.abs(drawn.points).max() < 1.0
    assert np.abs(drawn.points.mean(axis=0)).max() < 0.03  # in the middle
    if drawn.modes:
        counts = np.bincount(drawn.labels, minlength=drawn.modes)
        assert len(counts) == drawn.modes and np.abs(counts / 4000 * drawn.modes - 1).max() < 0.25
    again = points.draw(shape, 4000, None, seed=0)
    assert np.array_equal(drawn.points, again.points)
    assert not np.array_equal(drawn.points, points.draw(shape, 4000, None, seed=1).points)


def test_the_ring_s_gaussians_have_their_centres_and_noise() -> None:
    drawn = points.draw("ring", 20_000, 0.05, seed=0)
    for mode in range(8):
        own = drawn.points[drawn.labels == mode]
        angle = 2 * np.pi * mode / 8
        assert own.mean(axis=0) == pytest.approx(0.7 * np.array([np.cos(angle), np.sin(angle)]), abs=0.005)
        assert np.cov(own.T) == pytest.approx(0.05**2 * np.eye(2), abs=3e-4)


def test_the_checkerboard_s_cells_touch_at_corners_alone() -> None:
    drawn = points.draw("checkerboard", 20_000, None, seed=0)
    cell = np.floor((drawn.points + 0.8) / 0.4).astype(int)
    assert set(cell.sum(axis=1) % 2) == {0}  # dark ones only
    assert len(np.unique(cell, axis=0)) == 8 == len(np.unique(np.c_[cell, drawn.labels], axis=0))


def test_a_disc_is_as_full_in_the_middle_as_at_its_edge() -> None:
    radius = np.linalg.norm(points.draw("disc", 20_000, 0.0, seed=0).points, axis=1)
    assert radius.max() <= 0.7 + 1e-6
    assert (radius < 0.35).mean() == pytest.approx(0.25, abs=0.015)


def test_points_reach_the_networks_as_they_were_drawn(tmp_path: Path) -> None:
    data = prepared(tmp_path, shape="ring")
    assert data.shape == POINT and data.classes == tuple("01234567")
    raw = read_array(tmp_path / "raw" / "all-images.npy").reshape(-1, 2)
    splits = [data.images(split).reshape(-1, 2) for split in ("train", "validation", "test")]
    together = np.concatenate(splits)
    assert together.dtype == np.float32
    assert np.array_equal(together[np.lexsort(together.T)], raw[np.lexsort(raw.T)])  # the same points, to the last bit
    labels = data.labels("train")
    assert labels is not None
    angle = np.round(np.arctan2(splits[0][:, 1], splits[0][:, 0]) / (2 * np.pi / 8)) % 8
    assert (angle == labels).mean() > 0.99
    assert data.card["mean"] == pytest.approx(splits[0].mean(axis=0), abs=1e-5)
    assert data.card["std"] == pytest.approx(splits[0].std(axis=0), abs=1e-5)

    for hold in (True, False):
        device = DeviceData(data, hold=hold)
        chunks = torch.cat([chunk.images for chunk in device.chunks(100)])
        assert chunks.shape == (len(splits[0]), 2, 1, 1)
        assert np.array_equal(chunks.flatten(1).numpy(), splits[0])
        device.batch(0, 32).images.zero_()  # a batch is the caller's own
        assert np.array_equal(next(device.chunks(100)).images.flatten(1).numpy(), splits[0][:100])


def test_a_seed_prepares_the_same_points(tmp_path: Path) -> None:
    first, second = (prepared(tmp_path / name, shape="disc") for name in ("first", "second"))
    assert first.digest == second.digest and first.classes == ()
    assert prepared(tmp_path / "moons", shape="moons").digest != first.digest


def test_the_doors_for_points_are_inverse_and_refuse_what_is_not_finite() -> None:
    stored = torch.rand(7, 1, 1, 2) * 3 - 1.5  # also beyond the square
    assert torch.equal(to_stored(to_network(stored)), stored)
    with pytest.raises(ValueError, match="not finite"):
        to_stored(torch.full((3, 2, 1, 1), torch.nan))
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    assert to_stored(images).dtype == torch.uint8


def test_points_get_eyes_and_a_metric_of_their_own_and_no_pixels() -> None:
    recipes = {"one": {"from": "gaussian"}}
    config = Config.read({"data": {"source": "points"}, "recipes": recipes}, "")
    assert (config.extractor.name, config.registry.metric) == ("coordinates", "mind")
    assert Config.read({"recipes": recipes}, "").registry.metric == "fid"
    for wrong, said in (
        ({"data": {"source": "points"}, "extractor": {"name": "classifier"}}, "coordinates"),
        ({"extractor": {"name": "coordinates"}}, "another one than coordinates"),
        ({"data": {"source": "points", "image_size": 8}}, "image_size"),
        ({"data": {"source": "points", "horizontal_flip": True}}, "horizontal_flip"),
    ):
        with pytest.raises(UserError, match=said):
            Config.read({**wrong, "recipes": recipes}, "")
