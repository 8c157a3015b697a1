"""What each augmentation does to an image, and that gradients go through it, twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genforge.objectives.augmentation import (
    AUGMENTATIONS,
    augment,
    brightness,
    contrast,
    cut_out,
    saturation,
    translate,
)


def images(count: int = 4, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_translation_moves_each_image_by_its_own_pixels() -> None:
    given = images(3, height=8, width=12)
    moved = translate(given, torch.tensor([0, 2, -1]), torch.tensor([0, -3, 1]))
    assert torch.equal(moved[0], given[0])
    assert torch.equal(moved[1, :, 2:, :-3], given[1, :, :-2, 3:])
    assert (moved[1, :, :2] == 0).all() and (moved[1, :, :, -3:] == 0).all()
    assert torch.equal(moved[2, :, :-1, 1:], given[2, :, 1:, :-1])
    assert (moved[2, :, -1] == 0).all() and (moved[2, :, :, 0] == 0).all()


def test_cutout_is_a_square_of_half_the_side() -> None:
    given = images(2) + 3  # nowhere zero
    cut = cut_out(given, torch.tensor([1, -2]), torch.tensor([2, 6]))
    assert (cut[0, :, 1:5, 2:6] == 0).all() and int((cut[0] == 0).sum()) == 3 * 16
    assert (cut[1, :, :2, 6:] == 0).all() and int((cut[1] == 0).sum()) == 3 * 4


def test_colour_changes_what_its_name_says() -> None:
    given, two = images(), torch.full((4, 1, 1, 1), 2.0)
    torch.testing.assert_close(brightness(given, two), given + 2)
    torch.testing.assert_close(contrast(given, two).std(dim=(1, 2, 3)), 2 * given.std(dim=(1, 2, 3)))
    torch.testing.assert_close(contrast(given, two).mean(dim=(1, 2, 3)), given.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(saturation(given, two).mean(dim=1), given.mean(dim=1))
    torch.testing.assert_close(saturation(given, two).std(dim=1), 2 * given.std(dim=1))
    gray = saturation(given, torch.zeros(4, 1, 1, 1))
    torch.testing.assert_close(gray, given.mean(dim=1, keepdim=True).expand_as(given))
    torch.testing.assert_close(saturation(images(channels=1), two), images(channels=1))


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_it_is_random_seeded_and_differentiable_twice(name: str) -> None:
    given = images().requires_grad_()
    torch.manual_seed(1)
    first, second = augment(given, [name]), augment(given, [name])
    torch.manual_seed(1)
    assert torch.equal(augment(given, [name]), first)
    assert not torch.equal(first, second)
    assert first.shape == given.shape
    (slope,) = torch.autograd.grad(first.pow(3).sum(), given, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), given)
    assert torch.isfinite(curvature).all() and curvature.abs().sum() > 0


@pytest.mark.parametrize("side", [8, 28])
def test_translation_stays_within_an_eighth(side: int) -> None:
    torch.manual_seed(0)
    given = torch.zeros(400, 1, side, side)
    given[:, :, side // 2, side // 2] = 1
    places = augment(given, ["translation"]).flatten(1).argmax(dim=1)
    moved = torch.stack([places // side, places % side]) - side // 2
    assert moved.min() == -round(side / 8) and moved.max() == round(side / 8)


def test_none_is_the_image_itself_and_draws_nothing() -> None:
    given, before = images(), torch.get_rng_state()
    assert augment(given, []) is given
    assert torch.equal(torch.get_rng_state(), before)
