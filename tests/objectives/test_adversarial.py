"""Turns are data, and each turn computes what its formula says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genforge.catalog import build_network
from genforge.contracts import Batch, ImageShape
from genforge.objectives.adversarial import Adversarial, AdversarialSettings
from genforge.settings import UserError

IMAGE = ImageShape(1, 8, 8)


def adversarial(classes: int = 0, critic: dict[str, Any] | None = None, **settings: Any) -> Adversarial:
    torch.manual_seed(0)
    read = AdversarialSettings.read(settings, "test")
    choices = {"generator": {"name": "dcgan-generator", "width": 8}, "critic": {"name": "dcgan-critic", "width": 8}}
    choices["critic"] |= critic or {}
    ports = Adversarial.ports(read, IMAGE, classes)
    return Adversarial(read, {role: build_network(choices[role], port, role) for role, port in ports.items()})


def batch(count: int = 6) -> Batch:
    return Batch(torch.rand(count, 1, 8, 8) * 2 - 1, torch.arange(count) % 3)


def test_the_generator_waits_for_the_critic() -> None:
    players = adversarial(critic_steps=5).players
    assert [(player.name, player.every) for player in players] == [("critic", 1), ("generator", 5)]


def test_the_generator_is_exported() -> None:
    objective = adversarial()
    assert objective.exported is objective.generator
    assert Adversarial.exported_role() == "generator"


def test_the_critic_s_turn_leaves_no_trace_in_the_generator() -> None:
    objective = adversarial()
    objective.loss(objective.players[0], batch()).value.backward()
    assert all(weight.grad is None for weight in objective.generator.parameters())


def test_one_pass_over_both_equals_two_passes() -> None:
    objective = adversarial()
    assert objective.mixed_pass
    losses = []
    for objective.mixed_pass in (True, False):
        torch.manual_seed(1)
        losses.append(objective.loss(objective.players[0], batch()).value)
    torch.testing.assert_close(losses[0], losses[1])


def test_batch_normalisation_in_the_critic_keeps_real_and_fake_apart() -> None:
    assert not adversarial(critic={"normalisation": "batch", "style": "sngan"}).mixed_pass


def test_conditional_players_get_labels() -> None:
    objective = adversarial(classes=3, conditional=True)
    assert objective.generator.port.classes == objective.critic.port.classes == 3
    for player in objective.players:
        assert torch.isfinite(objective.loss(player, batch()).value)


def test_conditional_without_labels_is_told() -> None:
    with pytest.raises(UserError, match=r"objective\.conditional is true, but the data has no labels"):
        adversarial(classes=0, conditional=True)


def test_an_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean `hinge`"):
        AdversarialSettings.read({"loss": "hing"}, "recipes.gan.objective")
