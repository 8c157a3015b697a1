"""Networks that grow: when, how, and that a resumed run grows on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from genforge import catalog
from genforge.contracts import Batch, ImageShape, Objective
from genforge.networks.progressive import Critic, Generator
from genforge.objectives.growth import GrowthSettings, stage_at, turns_to_grow
from genforge.randomness import seed_everything
from genforge.settings import UserError
from genforge.training.checkpoint import Checkpoints
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings
from tests.networks.network_cases import build, inputs, some_pixels
from tests.objectives.test_stabilisers import dcgan

IMAGE = ImageShape(1, 16, 16)
SMALL = {role: {"width": 4, "widest": 8} for role in ("generator", "critic")}


def generator() -> Generator:
    network = build("progressive-generator", IMAGE).eval()
    assert isinstance(network, Generator)
    return network


def critic() -> Critic:
    network = build("progressive-critic", IMAGE).eval()
    assert isinstance(network, Critic)
    return network


def objective(**settings: Any) -> Objective:
    entry = {"from": "progressive", "networks": SMALL, "objective": {"latent_size": 8, **settings}}
    seed_everything(1)
    return catalog.build_objective(catalog.resolve("test", entry), IMAGE, 0)


def test_a_size_is_held_then_the_next_one_fades_in_and_the_last_one_stays() -> None:
    growth = GrowthSettings(hold=3, fade=4)
    stages = [stage_at(turn, growth, stages=2) for turn in range(20)]
    assert stages[:10] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert stages[10:16] == [1.25, 1.5, 1.75, 2, 2, 2]
    assert turns_to_grow(growth, 2) == 14 and set(stages[13:]) == {2.0}


@pytest.mark.parametrize("stage", [0, 1, 2])
@torch.no_grad()
def test_images_of_a_small_stage_are_small_images_enlarged_and_the_critic_sees_no_more(stage: int) -> None:
    drawing, judging = generator(), critic()
    drawing.grow(stage), judging.grow(stage)
    images = drawing(*inputs(drawing, 3))
    assert images.shape == (3, 1, 16, 16)
    side = 2 ** (2 - stage)
    torch.testing.assert_close(images, drawing.reduced(images), atol=1e-6, rtol=1e-6)
    coarse = functional.avg_pool2d(images, side)
    assert not torch.allclose(coarse, functional.interpolate(functional.avg_pool2d(coarse, 2), scale_factor=2.0))
    noisy = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(judging(noisy), judging(judging.reduced(noisy)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("below", [0, 1])
@torch.no_grad()
def test_a_size_comes_in_from_nothing_and_is_whole_at_the_end(below: int) -> None:
    for network in (generator(), critic()):
        given = inputs(network, 3)
        seen = []
        for stage in (below, below + 1e-4, below + 1 - 1e-4, below + 1):
            network.grow(stage)
            seen.append(network(*given))
        torch.testing.assert_close(seen[0], seen[1], atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(seen[2], seen[3], atol=1e-2, rtol=1e-2)
        assert not torch.allclose(seen[0], seen[3], atol=3e-2)


@torch.no_grad()
def test_real_images_are_between_both_sizes_while_one_comes_in() -> None:
    network, images = generator(), torch.randn(2, 1, 16, 16)
    network.grow(1)
    coarse = network.reduced(images)
    network.grow(2)
    assert torch.equal(network.reduced(images), images)
    network.grow(1.25)
    torch.testing.assert_close(network.reduced(images), 0.75 * coarse + 0.25 * images)


@torch.no_grad()
def test_how_far_it_has_grown_lies_with_the_weights() -> None:
    network, again = generator(), generator()
    network.grow(0.5)
    given = inputs(network, 2)
    assert not torch.allclose(again(*given), network(*given), atol=1e-3)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(*given), network(*given))


def test_both_networks_are_at_the_stage_of_the_critic_s_turn() -> None:
    growing = objective(growth={"hold": 2, "fade": 2}, critic_steps=2)
    stages = []
    for _ in range(8):
        stages.append(float(growing.exported.stage))  # type: ignore[arg-type]
        growing.after_step(growing.players[0])
        growing.after_step(growing.players[1])
    assert stages == [0, 0, 0.5, 1, 1, 1, 1.5, 2]
    again = objective(growth={"hold": 2, "fade": 2})
    again.load_state({"critic_turns": torch.tensor(6)})
    assert float(again.exported.stage) == 1.5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("progressive", {"growth": {"hold": 3, "fade": 3}, "critic_steps": 2}),
        (
            "stylegan",
            {
                "penalties_every": 3,
                "path_length": 2.0,
                "path_length_every": 2,
                "style_mixing": 0.5,
                "adaptive_augmentation": ["mirror", "blit", "geometry", "colour"],
                "adaptive_images": 100,
            },
        ),
    ],
)
def test_a_run_that_stops_anywhere_in_its_growth_or_adaptation_ends_with_the_same_bits(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    data = some_pixels(ImageShape(1, 8, 8))
    training = {"batch_size": 4, "checkpoint_every": 1, "ema": 0.9}

    def run(steps: int, folder: Path | None) -> dict[str, torch.Tensor]:
        entry = {"from": name, "networks": SMALL, "objective": {"latent_size": 8, **settings}}
        seed_everything(1)
        built = catalog.build_objective(catalog.resolve("test", entry), ImageShape(1, 8, 8), 0)
        train(
            built,
            data,
            TrainingSettings.read({**training, "steps": steps}, "test"),
            checkpoints=Checkpoints(folder, warn=print) if folder else None,
        )
        return {**built.exported.state_dict(), **built.state()}

    whole = run(9, None)
    for steps in (4, 5, 9):  # each goes on where the one before ended
        found = run(steps, tmp_path / "checkpoints")
    assert all(torch.equal(found[key], whole[key]) for key in whole)


def test_training_that_ends_before_the_networks_have_grown_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    growing = objective(growth={"hold": 2, "fade": 2})
    growing.finish(some_pixels(IMAGE))
    assert "fully grown after 8" in capsys.readouterr().err
    for _ in range(7):
        growing.after_step(growing.players[0])
    growing.finish(some_pixels(IMAGE))
    assert capsys.readouterr().err == ""


def test_real_images_of_the_critic_s_turn_are_as_coarse_as_the_generated_ones() -> None:
    growing, seen = objective(growth={"hold": 2, "fade": 2}), []
    growing.players[0].module.register_forward_hook(lambda module, given, output: seen.append(given[0].detach()))
    growing.loss(growing.players[0], Batch(torch.randn(3, 1, 16, 16)))
    for images in seen:
        torch.testing.assert_close(images, images[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_networks_that_cannot_grow_are_told() -> None:
    with pytest.raises(UserError, match=r"objective.growth is set, but .*dcgan cannot grow.*progressive-generator"):
        dcgan(growth={"hold": 1, "fade": 1})
