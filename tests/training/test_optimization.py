"""Closed forms of optimizers, schedules and the running average."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from genforge.settings import UserError
from genforge.training.optimization import (
    OptimizerSettings,
    PlayerOptimizer,
    WeightAverage,
    build_optimizer,
    learning_rate_factor,
    make_step,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
)

OPTIMIZERS = ["adam", "adamw", "sgd", "rmsprop"]


def test_the_first_step_of_adam_is_the_learning_rate_against_the_gradients_sign() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float32))
    optimizer = build_optimizer(OptimizerSettings(learning_rate=0.1), [weight])
    (weight * torch.tensor([5.0, -0.3, 0.01])).sum().backward()
    optimizer.step()
    assert torch.allclose(weight, torch.tensor([0.9, -1.9, 2.9]), atol=1e-6)


def test_a_step_of_sgd_without_momentum_follows_the_gradient_and_the_decay() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    settings = OptimizerSettings(name="sgd", learning_rate=0.1, betas=(0.0, 0.0), weight_decay=0.5)
    optimizer = build_optimizer(settings, [weight])
    (3.0 * weight).sum().backward()
    optimizer.step()
    assert weight.item() == pytest.approx(2.0 - 0.1 * (3.0 + 0.5 * 2.0))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_kernels_are_fused_where_torch_has_them(name: str) -> None:
    optimizer = build_optimizer(OptimizerSettings(name=name), [nn.Parameter(torch.zeros(3))])
    assert optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch_s_own_optimizer(name: str) -> None:
    """Also where one weight misses a step and another begins to learn late (which torch's fused sgd cannot take)."""
    first, second = (
        [nn.Parameter(torch.linspace(-2.0, 2.0, 7)), nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(()))]
        for _ in range(2)
    )
    ours = build_optimizer(OptimizerSettings(name=name, learning_rate=0.1, weight_decay=0.1), first)
    theirs = type(ours).__mro__[1](
        second, **{key: ours.defaults[key] for key in ours.defaults if key != "decoupled_weight_decay"}
    )
    for weights, optimizer, step in ((first, ours, lambda: make_step(ours)), (second, theirs, theirs.step)):
        for number in range(6):
            optimizer.zero_grad()
            begun = number > 3 or name == "sgd"
            learning = [weights[0], *([weights[1]] if number != 2 else []), *([weights[2]] if begun else [])]
            torch.stack([weight.sin().square().sum() for weight in learning]).sum().backward()
            set_learning_rate(optimizer, 0.1 / (1 + number))
            step()
    assert type(theirs).__module__.startswith("torch.optim")
    assert all(torch.equal(own, other) for own, other in zip(first, second, strict=True))
    of_ours, of_theirs = optimizer_tensors(ours), optimizer_tensors(theirs)
    assert of_ours.keys() == of_theirs.keys()
    assert all(torch.equal(of_ours[key], of_theirs[key]) for key in of_ours)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_step_of_adam_that_remembers_goes_straight_to_its_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(OptimizerSettings(name=name), [weight])
    weight.sum().backward()
    make_step(optimizer)
    monkeypatch.setattr(type(optimizer), "step", None)
    make_step(optimizer)
    assert optimizer_tensors(optimizer)["0.step"] == 2


def test_training_without_torch_compile_does_not_pay_for_its_import() -> None:
    """A second in every process that trains."""
    program = (
        "import sys, torch\n"
        "from genforge.training.optimization import *\n"
        "weight = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = build_optimizer(OptimizerSettings(), [weight])\n"
        "weight.sum().backward()\n"
        "optimizer.step(); optimizer.zero_grad(); restore_optimizer(optimizer, optimizer_tensors(optimizer))\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_with_its_memory_restored_goes_on_with_the_same_bits(name: str) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        # Channels last: a moment that lay in memory otherwise than its weight would be read in the wrong order.
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)).to(memory_format=torch.channels_last)

    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            images = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            network(images).square().mean().backward()
            make_step(optimizer)

    settings = OptimizerSettings(name=name, learning_rate=0.01)
    straight = network()
    steps(straight, build_optimizer(settings, straight.parameters()), range(7))

    before = network()
    optimizer = build_optimizer(settings, before.parameters())
    steps(before, optimizer, range(3))
    memory = {key: value.clone().contiguous() for key, value in optimizer_tensors(optimizer).items()}
    after = network()
    after.load_state_dict(before.state_dict())
    optimizer = build_optimizer(settings, after.parameters())
    restore_optimizer(optimizer, memory)
    steps(after, optimizer, range(3, 7))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), after.parameters(), strict=True))


def test_warm_up_rises_in_a_straight_line_and_then_stays() -> None:
    factors = [learning_rate_factor(step, 100, 4, "constant") for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate_factor(0, 100, 0, "constant") == 1.0


def test_the_cosine_starts_at_one_passes_half_in_the_middle_and_would_end_at_zero() -> None:
    assert learning_rate_factor(10, 110, 10, "cosine") == 1.0
    assert learning_rate_factor(60, 110, 10, "cosine") == pytest.approx(0.5)
    assert learning_rate_factor(110, 110, 10, "cosine") == pytest.approx(0.0)
    assert learning_rate_factor(35, 110, 10, "cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate_factor(5, 3, 5, "cosine") == 1.0, "a run shorter than its warm-up"


def test_setting_the_learning_rate_scales_the_step() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(OptimizerSettings(name="sgd", learning_rate=1.0, betas=(0.0, 0.0)), [weight])
    weight.sum().backward()
    set_learning_rate(optimizer, 0.25)
    optimizer.step()
    assert weight.item() == -0.25


def test_a_players_own_settings_are_laid_over_the_common_ones() -> None:
    base = OptimizerSettings(learning_rate=1e-3, betas=(0.5, 0.9))
    assert PlayerOptimizer(learning_rate=4e-3).over(base) == OptimizerSettings(learning_rate=4e-3, betas=(0.5, 0.9))
    with pytest.raises(UserError, match=r"players.critic.learning_rte: unknown key; did you mean `learning_rate`"):
        PlayerOptimizer.read({"learning_rte": 1}, "players.critic")


def test_the_average_of_constant_weights_forgets_its_start_as_the_warm_up_says() -> None:
    network = nn.Linear(3, 2)
    average = WeightAverage(network, 0.9999)
    start = [weight.clone() for weight in average.averages]
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    updates = 20
    for _ in range(updates):
        average.update()
    # The product of (1 + n) / (10 + n) over n = 1..N telescopes to 10! (N + 1)! / (N + 10)!
    kept = math.factorial(10) * math.factorial(updates + 1) / math.factorial(updates + 10)
    for weight, first, now in zip(average.weights, start, average.averages, strict=True):
        assert torch.allclose(now, weight + kept * (first - weight), atol=1e-6)


def test_after_its_warm_up_the_average_is_exponential() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, 0.25)
    expected = network.weight.item()
    for n in range(1, 30):
        with torch.no_grad():
            network.weight.fill_(math.sin(n))
        average.update()
        kept = min(0.25, (1 + n) / (10 + n))
        expected = kept * expected + (1 - kept) * math.sin(n)
    assert average.averages[0].item() == pytest.approx(expected, rel=1e-5)


def test_averaged_weights_are_in_place_within_the_block_alone() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight))
    average.update()
    own = [weight.clone() for weight in network.parameters()]
    with pytest.raises(ZeroDivisionError), average.in_place():
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), average.averages, strict=True))
        raise ZeroDivisionError
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), own, strict=True))
    average.adopt()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), average.averages, strict=True))
