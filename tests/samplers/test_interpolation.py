"""Strips of images between two latents and between two seeds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genforge.catalog import build_sampler
from genforge.contracts import Draw, WithLatents
from genforge.files import read_array
from genforge.models import Model
from genforge.samplers.interpolation import along, interpolate
from genforge.settings import UserError
from genforge.steps.draw import draw_between
from tests.networks.network_cases import EIGHT, build
from tests.trained_models import trained_folder


def model(network: str = "dcgan-generator", sampler: str = "one-shot", classes: int = 0) -> Model:
    return Model(build(network, EIGHT, classes).eval(), build_sampler({"name": sampler}), {})


def test_the_way_is_turned_evenly_and_keeps_its_length() -> None:
    first, second = torch.randn(2, 4, 100).double()
    first, second = (10 * one / one.norm(dim=1, keepdim=True) for one in (first, second))
    points = [along(first, second, torch.full((4, 1), place / 8).double()) for place in range(9)]
    assert all(torch.allclose(point.norm(dim=1), torch.full((4,), 10.0).double()) for point in points)
    steps = torch.stack([(b - a).norm(dim=1) for a, b in pairwise(points)])
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))


@pytest.mark.parametrize(("network", "sampler"), [("dcgan-generator", "one-shot"), ("style-generator", "style")])
def test_a_strip_begins_and_ends_with_the_images_themselves(network: str, sampler: str) -> None:
    drawing = model(network, sampler)
    assert isinstance(drawing.sampler, WithLatents)
    first, second = Draw(3, torch.arange(4)), Draw(9, torch.arange(4))
    strips = interpolate(drawing.sampler, drawing.network, first, second, 5)
    assert strips.shape == (4, 5, 1, 8, 8)
    torch.testing.assert_close(strips[:, 0], drawing.sampler.sample(drawing.network, first), atol=1e-4, rtol=1e-4)
    if sampler == "one-shot":
        torch.testing.assert_close(strips[:, -1], drawing.sampler.sample(drawing.network, second), atol=1e-4, rtol=1e-4)
    jumps = (strips[:, 1:] - strips[:, :-1]).flatten(2).norm(dim=2)
    whole = (strips[:, -1] - strips[:, 0]).flatten(1).norm(dim=1)
    assert (jumps.max(dim=1).values < whole).all()


def test_strips_of_one_seed_lead_from_each_image_to_the_next() -> None:
    strips, images = model().between(3, 4, 6), model().draw(3, 5)
    assert strips.shape == (4, 6, 8, 8, 1) and strips.dtype == np.uint8
    assert np.abs(strips[:, 0].astype(int) - images[:4]).max() <= 1
    assert np.abs(strips[:, -1].astype(int) - images[1:]).max() <= 1


def test_strips_of_two_seeds_keep_the_label() -> None:
    conditional = model("style-generator", "one-shot", classes=3)
    strips = conditional.between(0, 3, 4, other_seed=1)
    labels = torch.arange(3)
    for seed, column in ((0, 0), (1, -1)):
        expected = conditional.draw(seed, 3, labels=labels)
        assert np.abs(strips[:, column].astype(int) - expected).max() <= 1


def test_a_model_that_draws_step_by_step_says_that_it_has_no_latents() -> None:
    with pytest.raises(UserError, match="heun draws images step by step and has no latents to walk between"):
        model("edm-denoiser", "heun").between(0, 1, 4)


def test_a_trained_folder_is_walked_through_into_a_picture_or_an_array(tmp_path: Path) -> None:
    trained_folder(tmp_path / "gan", "GAN", "gan")
    draw_between("gan", 3, 5, seed=0, to_seed=None, out=tmp_path / "strips.npy", root=tmp_path)
    assert read_array(tmp_path / "strips.npy").shape == (15, 8, 8, 1)
    draw_between("gan", 3, 5, seed=0, to_seed=4, out=tmp_path / "strips.png", root=tmp_path)
    with Image.open(tmp_path / "strips.png") as picture:
        assert picture.width / picture.height == pytest.approx(5 / 3, rel=0.02)
    with pytest.raises(UserError, match="--interpolate 2 or more, not 3 and 1"):
        draw_between("gan", 3, 1, seed=0, to_seed=None, out=tmp_path / "x.png", root=tmp_path)
    with pytest.raises(UserError, match="no model is called 'nothing'"):
        draw_between("nothing", 3, 4, seed=0, to_seed=None, out=tmp_path / "x.png", root=tmp_path)
