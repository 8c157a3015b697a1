"""`objective.same_images`: what the generator drew for the critic's turn, it learns from in its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genforge.catalog import build_network
from genforge.contracts import Batch, ImageShape
from genforge.objectives.adversarial import Adversarial, AdversarialSettings
from genforge.settings import UserError
from genforge.training.optimization import OptimizerSettings
from genforge.training.turn import Part, Turn, TurnSettings

IMAGE = ImageShape(1, 16, 16)
RATE = 0.1


def dcgan(classes: int = 0, **settings: Any) -> Adversarial:
    torch.manual_seed(0)
    read = AdversarialSettings.read(
        {"loss": "non-saturating", "same_images": True, "latent_size": 6, "conditional": bool(classes), **settings},
        "test",
    )
    networks = {
        role: build_network({"name": f"dcgan-{role}", "width": 4, "normalisation": "batch"}, port, role)
        for role, port in Adversarial.ports(read, IMAGE, classes).items()
    }
    return Adversarial(read, networks)


def some(seed: int, classes: int = 0, **part: int) -> Batch:
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (6,), generator=chance) if classes else None
    return Batch(torch.rand(6, 1, 16, 16, generator=chance) * 2 - 1, labels, **part)


def step(objective: Adversarial, *turns: list[Part]) -> None:
    """A turn of each player on these, as the loop has them."""
    sgd = OptimizerSettings(name="sgd", learning_rate=RATE, betas=(0.0, 0.0))
    for player, parts in zip(objective.players, turns, strict=True):
        Turn(objective, player, sgd, TurnSettings("cpu")).take(parts, 1.0)


def passes_of(network: nn.Module) -> list[Tensor]:
    """The images of every pass that the network makes from here on."""
    seen: list[Tensor] = []
    network.register_forward_hook(lambda module, inputs, images: seen.append(images))
    return seen


@pytest.mark.parametrize(("same", "passes"), [(True, 1), (False, 2)])
def test_the_generator_draws_once_a_step(same: bool, passes: int) -> None:
    objective = dcgan(same_images=same)
    drawn = passes_of(objective.generator)
    for number in (1, 2):
        step(objective, [Part(some(1))], [Part(some(2))])
        assert len(drawn) == passes * number


def test_it_learns_from_the_images_that_the_critic_saw() -> None:
    """Its gradient is that of its loss before a critic that has moved, at the latents of the critic's turn; worked out
    on other networks of the same weights."""
    objective, own = dcgan(), dcgan()
    torch.manual_seed(7)
    step(objective, [Part(some(1))], [Part(some(2))])

    torch.manual_seed(7)
    images = own.generator(torch.randn(6, 6))
    real, fake = own.critic(some(1).images), own.critic(images.detach())
    for weight, slope in _slopes(own.formulas.critic(real, fake), own.critic):
        weight.sub_(RATE * slope)
    for weight, slope in _slopes(own.formulas.generator(None, own.critic(images)), own.generator):
        assert slope.abs().max() > 0
        weight.sub_(RATE * slope)
    for network, by_hand in ((objective.critic, own.critic), (objective.generator, own.generator)):
        for (name, weight), expected in zip(network.named_parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(weight, expected, msg=lambda text, name=name: f"{name}: {text}")
        for (name, buffer), expected in zip(network.named_buffers(), by_hand.buffers(), strict=True):
            torch.testing.assert_close(buffer, expected, msg=lambda text, name=name: f"{name}: {text}")


def _slopes(value: Tensor, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    weights = list(network.parameters())
    slopes = torch.autograd.grad(value, weights)
    return [(weight.detach(), slope) for weight, slope in zip(weights, slopes, strict=True)]


def test_they_keep_their_labels() -> None:
    objective = dcgan(classes=3)
    asked: list[Tensor] = []
    objective.critic.register_forward_hook(lambda module, inputs, outputs: asked.append(inputs[1]))
    first, second = some(1, 3), some(2, 3)
    assert first.labels is not None and second.labels is not None and not first.labels.equal(second.labels)
    step(objective, [Part(first)], [Part(second)])
    assert asked[-1].equal(first.labels)


def test_they_are_changed_anew_for_the_generator_s_turn() -> None:
    objective = dcgan(instance_noise=0.5)
    shown: list[Tensor] = []
    objective.critic.register_forward_hook(lambda module, inputs, outputs: shown.append(inputs[0]))
    drawn = passes_of(objective.generator)
    step(objective, [Part(some(1))], [Part(some(2))])
    (images,), (_, of_critic, of_generator) = drawn, shown
    for changed in (of_critic, of_generator):
        assert 0.3 < float((changed - images).detach().std()) < 0.7
    assert not of_critic.equal(of_generator)


def test_the_critic_s_turn_neither_teaches_the_generator_nor_leaves_it_frozen_or_free() -> None:
    objective = dcgan()
    weights = list(objective.generator.parameters())
    for free in (False, True):  # in a turn, and elsewhere
        objective.generator.requires_grad_(free)
        objective.loss(objective.players[0], some(1)).value.backward()
        assert all(weight.grad is None and weight.requires_grad == free for weight in weights)


def test_a_batch_in_parts_has_images_for_each_turn() -> None:
    """Parts begin with the same buffers, and each would keep a pass in memory."""
    objective = dcgan()
    drawn = passes_of(objective.generator)
    turns = [[Part(some(seed + part, part=part, parts=2), seed=part) for part in range(2)] for seed in (1, 2)]
    step(objective, *turns)
    assert len(drawn) == 4 and objective.drawn is None


def test_nothing_is_kept_between_steps() -> None:
    objective = dcgan()
    step(objective, [Part(some(1))], [Part(some(2))])
    assert objective.drawn is None
    objective.loss(objective.players[0], some(3))
    assert objective.drawn is not None
    objective.load_state({})  # back to a checkpoint, which is of another time
    assert objective.drawn is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic_steps": 5}, r"objective.same_images.*false with critic_steps 5.*set one of the two"),
        ({"growth": {"hold": 5, "fade": 5}}, r"objective.growth.*null with same_images.*set one of the two"),
    ],
)
def test_it_says_what_it_does_not_go_with(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdversarialSettings.read({"same_images": True, **settings}, "objective")
