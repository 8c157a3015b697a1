"""Changes that are made with a probability, none of which leak while it is small, and the probability that follows the
critic."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from genforge.objectives import adaptive_augmentation
from genforge.objectives.adaptive_augmentation import (
    GROUPS,
    STRONGEST,
    Adaptation,
    _hue,
    _resampled,
    _rotation,
    strength_after,
    sureness,
    vary,
)
from genforge.settings import UserError
from genforge.training.turn import Part
from tests.objectives.test_stabilisers import real, tiny, turn


def images(count: int = 4, channels: int = 3, side: int = 12) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_nothing_is_changed_at_strength_zero(name: str) -> None:
    torch.testing.assert_close(vary(images(), [name], 0.0), images(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mirror", "blit", "geometry", "colour"])
def test_images_that_come_out_as_they_were_are_as_many_as_the_strength_says(name: str) -> None:
    """The undisturbed share is what makes the changes invertible: every single change is left out with 1 - p, and a
    coin or a turn by 0 leaves the image as it was, too."""
    torch.manual_seed(0)
    given = images(1).expand(4000, -1, -1, -1)
    same = (vary(given, [name], 0.3) - given).abs().amax(dim=(1, 2, 3)) < 1e-5
    kept = {
        "mirror": 1 - 0.3 / 2,
        "blit": (1 - 0.3 * 3 / 4) * (1 - 0.3 * (1 - 1 / 25)),  # shifts of -2 to 2 each way
        "geometry": 0.7 * 0.7 * 0.7 * 0.7**2,  # size, stretch, both turns, the two shifts
        "colour": 0.7 * 0.7 * (1 - 0.3 / 2) * 0.7 * 0.7,
    }[name]
    assert same.float().mean().item() == pytest.approx(kept, abs=4 * math.sqrt(kept * (1 - kept) / 4000))


@pytest.mark.parametrize("name", sorted(GROUPS))
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_seeded_and_differentiable_twice(name: str, channels: int) -> None:
    given = images(8, channels).requires_grad_()
    torch.manual_seed(1)
    first, second = vary(given, [name], 0.8), vary(given, [name], 0.8)
    torch.manual_seed(1)
    assert torch.equal(vary(given, [name], 0.8), first)
    assert not torch.equal(first, second) and first.shape == given.shape
    (slope,) = torch.autograd.grad(first.pow(3).sum(), given, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), given)
    assert torch.isfinite(curvature).all() and curvature.abs().sum() > 0


def test_sides_that_differ_are_turned_by_half_turns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    given = torch.rand(2000, 1, 8, 12)
    monkeypatch.setattr(adaptive_augmentation, "_whole_shift", lambda side, count, device: torch.zeros(count).long())
    found = vary(given, ["blit"], 0.8)
    straight, turned = ((found == one).flatten(1).all(dim=1) for one in (given, given.rot90(2, dims=(2, 3))))
    assert (straight ^ turned).all()
    assert turned.float().mean().item() == pytest.approx(0.8 / 2, abs=4 * math.sqrt(0.24 / 2000))


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_an_image_of_any_sides_keeps_them(name: str) -> None:
    assert vary(torch.rand(50, 1, 8, 12), [name], 0.8).shape == (50, 1, 8, 12)


def test_a_turn_is_one_of_pixels_also_where_sides_differ() -> None:
    """What is square stays square: the middle of a wide image, turned by a right angle."""
    given = torch.rand(1, 1, 8, 12)
    right_angle = _rotation(torch.tensor([math.pi / 2]), 8 / 12)
    found = _resampled(given, functional.affine_grid(right_angle[:, :2], [1, 1, 8, 12], align_corners=False))
    middle = slice(2, 10)
    torch.testing.assert_close(found[..., middle], given[..., middle].rot90(-1, dims=(2, 3)), atol=1e-5, rtol=0)


def test_resampling_is_that_of_torch_mirrored_at_the_border() -> None:
    grid = torch.rand(4, 12, 12, 2) * 5 - 2.5  # far outside, too
    expected = functional.grid_sample(images(), grid, padding_mode="reflection", align_corners=False)
    torch.testing.assert_close(_resampled(images(), grid), expected, atol=1e-5, rtol=1e-5)


def test_turning_hues_keeps_gray_and_distances_and_a_third_of_a_turn_exchanges_channels() -> None:
    third = _hue(torch.tensor([2 * math.pi / 3]))[0]
    torch.testing.assert_close(third @ torch.eye(3), torch.eye(3).roll(1, dims=0), atol=1e-6, rtol=0)
    some = _hue(torch.tensor([0.7]))[0]
    torch.testing.assert_close(some @ torch.ones(3), torch.ones(3))
    torch.testing.assert_close(some @ some.T, torch.eye(3), atol=1e-6, rtol=0)


def test_the_strength_rises_from_0_to_1_in_as_many_images_as_were_said_and_stays_below_what_leaks() -> None:
    strength = torch.zeros(())
    for _ in range(10):
        strength = strength_after(strength, torch.tensor(0.9), 0.6, images=50, over=1000)
    assert strength.item() == pytest.approx(0.5)
    for _ in range(10):
        strength = strength_after(strength, torch.tensor(0.9), 0.6, images=50, over=1000)
    assert strength.item() == pytest.approx(STRONGEST)
    assert strength_after(strength, torch.tensor(0.5), 0.6, 50, 1000).item() == pytest.approx(0.75)
    assert strength_after(torch.zeros(()), torch.tensor(-1.0), 0.6, 50, 1000) == 0


def test_how_sure_a_critic_is() -> None:
    assert sureness(torch.tensor([[3.0]] * 6 + [[-0.1]] * 4)).item() == pytest.approx(0.2)


def test_a_critic_that_is_less_sure_than_the_target_is_shown_weaker_changes() -> None:
    adaptation = Adaptation(0.6, 100)
    adaptation.strength = torch.tensor(0.5)
    adaptation.settle(torch.tensor(0.2), torch.tensor(10.0))
    assert adaptation.strength.item() == pytest.approx(0.4)


def test_a_critic_that_is_sure_is_shown_stronger_changes_and_the_strength_is_in_the_checkpoint() -> None:
    settings = {"loss": "non-saturating", "adaptive_augmentation": ["mirror", "colour"], "adaptive_images": 100}
    objective, again = tiny(**settings), tiny(**settings)
    critic = objective.critic
    critic.forward = lambda images, labels=None: (
        critic.direction.sum() * 0 + images.flatten(1).sum(1, keepdim=True) * 0 + 5
    )  # type: ignore[method-assign]
    for _ in range(5):
        _, logs = turn(objective).take([Part(real())], 1.0)
    assert objective.state()["adaptive_strength"].item() == pytest.approx(5 * 8 / 100)
    assert logs["augmentation_strength"].item() == pytest.approx(4 * 8 / 100)
    again.load_state(objective.state())
    assert again.state()["adaptive_strength"].item() == pytest.approx(0.4)
    halves = [Part(replace(real(), part=part, parts=2), seed=part) for part in range(2)]
    turn(objective).take(halves, 1.0)  # once, by all images of the batch
    assert objective.state()["adaptive_strength"].item() == pytest.approx((5 * 8 + 2 * 8) / 100)


@pytest.mark.parametrize(
    "settings", [{"augmentation": ["colour"]}, {"adaptive_augmentation": ["colour"], "adaptive_images": 100}], ids=str
)
def test_the_critic_is_shown_changed_images_real_ones_and_generated(settings: dict[str, Any]) -> None:
    """Were one kind shown as it is, the critic would know it by that."""
    objective, seen = tiny(loss="non-saturating", **settings), []
    if objective.adaptation is not None:
        objective.adaptation.strength = torch.tensor(0.8)
    objective.critic.register_forward_hook(lambda module, given, out: seen.append(given[0].detach()))
    objective.loss(objective.players[0], real(100))
    clean = torch.cat([real(100).images, objective.generator.image.detach().expand(100, -1, -1, -1)])
    changed = (torch.cat(seen) - clean).flatten(1).abs().amax(dim=1) > 1e-4
    assert changed[:100].any() and changed[100:].any()


def test_a_loss_whose_critic_only_compares_has_nothing_to_adapt_to() -> None:
    with pytest.raises(UserError, match=r"adaptive_augmentation.*wasserstein.*calls none of them real.*hinge"):
        tiny(loss="wasserstein", r1=1.0, adaptive_augmentation=["blit"])
    with pytest.raises(UserError, match=r"did you mean `colour`"):
        tiny(adaptive_augmentation=["color"])
