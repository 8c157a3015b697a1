"""Averages of weights whose length is chosen after training: the paper's figures, closed forms, and resuming."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy_training import Denoise, ToyData, assert_same_bits, weights

from genforge.randomness import seed_everything
from genforge.settings import UserError
from genforge.training.checkpoint import Checkpoints
from genforge.training.loop import train
from genforge.training.power_averages import (
    Place,
    PowerAverages,
    PowerAverageSettings,
    inner_product,
    power,
    read,
    rebuild,
    weights_of,
)
from genforge.training.settings import TrainingSettings
from tests.disasters import strike


def test_powers_are_the_paper_s() -> None:
    """Karras et al. 2024: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert power(0.05) == pytest.approx(16.97, abs=0.005)
    assert power(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("length", [0.02, 0.1, 0.25])
def test_the_length_is_the_standard_deviation_of_the_profile(length: float) -> None:
    times = (np.arange(200_000) + 0.5) / 200_000
    profile = (power(length) + 1) * times ** power(length)
    mean = (times * profile).mean()
    assert np.sqrt(((times - mean) ** 2 * profile).mean()) == pytest.approx(length, rel=1e-3)


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))


def followed(history: np.ndarray, lengths: tuple[float, ...], marks: set[int]) -> PowerAverages:
    """The averages of a weight that takes these values, written down after the updates of `marks`."""
    module = One()
    averages = PowerAverages(module, PowerAverageSettings(snapshots=1, lengths=lengths), None)
    for update, value in enumerate(history, 1):
        module.weight.data.fill_(float(value))
        averages.update()
        if update in marks:
            averages.keep()
    return averages


def test_the_average_is_the_integral_of_the_profile() -> None:
    history = np.sin(np.arange(1, 3001) / 400)
    averages = followed(history, (0.05, 0.2), set())
    times = (np.arange(3000) + 0.5) / 3000
    for length, (average,) in averages.averages.items():
        expected = ((power(length) + 1) * times ** power(length) * history).mean()
        assert average.item() == pytest.approx(expected, abs=2e-3)


def test_inner_products_are_integrals() -> None:
    times = (np.arange(400_000) + 0.5) / 400_000 * 5.0
    for a, g, b, h in ((2.0, 7.0, 5.0, 3.0), (5.0, 3.0, 2.0, 7.0), (4.0, 16.9, 4.0, 6.9)):
        first = np.where(times <= a, (g + 1) * times**g / a ** (g + 1), 0)
        second = np.where(times <= b, (h + 1) * times**h / b ** (h + 1), 0)
        found = inner_product(np.array(a), np.array(g), b, h)
        assert found == pytest.approx((first * second).mean() * 5.0, rel=1e-4)


def test_what_was_followed_comes_back_and_other_lengths_come_near() -> None:
    updates = 2000
    history = np.cumsum(np.random.RandomState(0).randn(updates)) / 20 + np.linspace(0, 3, updates)
    marks = {updates * number // 16 for number in range(1, 17)}
    averages = followed(history, (0.05, 0.1), marks)
    for length in (0.05, 0.1):
        assert rebuild(averages.in_memory, length)["weight"].item() == pytest.approx(
            averages.averages[length][0].item(), rel=1e-6
        )
    true = followed(history, (0.03, 0.075, 0.15), set())
    for length, (average,) in true.averages.items():
        assert rebuild(averages.in_memory, length)["weight"].item() == pytest.approx(average.item(), abs=0.03)


def test_the_shares_sum_to_one() -> None:
    places = [Place(update, length) for update in (100, 200, 300, 400) for length in (0.05, 0.1)]
    for length in (0.01, 0.07, 0.2, 0.28):
        assert weights_of(places, Place(400, length)).sum() == pytest.approx(1.0)


SETTINGS = TrainingSettings.read(
    {
        "steps": 24,
        "batch_size": 8,
        "checkpoint_every": 5,
        "log_every": 4,
        "averages": {"snapshots": 4, "choose": 0.12},
    },
    "test",
)


def run(settings: TrainingSettings, folder: Path | None) -> Denoise:
    seed_everything(5)
    objective = Denoise()
    train(objective, ToyData(), settings, seed=3, checkpoints=folder and Checkpoints(folder))
    return objective


def snapshots(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "averages").glob("*.safetensors"))}


def test_a_run_that_is_killed_writes_the_same_averages_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = weights(run(SETTINGS, tmp_path / "whole"))
    expected = snapshots(tmp_path / "whole")
    assert list(expected) == [f"{step:09d}-{length}.safetensors" for step in (6, 12, 18, 24) for length in (0.05, 0.1)]
    assert_same_bits(weights(run(SETTINGS, None)), whole)  # in memory, too

    for number in (3, 9):
        folder = tmp_path / f"killed-{number}"
        status = strike("kill", number, folder / "averages", lambda folder=folder: run(SETTINGS, folder))
        assert status == -signal.SIGKILL
        assert len(snapshots(folder)) < len(expected)
        assert_same_bits(weights(run(SETTINGS, folder)), whole)
        assert snapshots(folder) == expected


def test_another_length_is_chosen_without_training_again(tmp_path: Path) -> None:
    run(SETTINGS, tmp_path)
    data = ToyData()
    for length in (0.05, 0.2):
        chosen = SETTINGS.model_copy(update={"averages": SETTINGS.averages.model_copy(update={"choose": length})})
        objective = Denoise()
        train(objective, data, chosen, seed=3, checkpoints=Checkpoints(tmp_path))
        made = rebuild(read(tmp_path / "averages"), length)
        for name, weight in objective.exported.named_parameters():
            torch.testing.assert_close(weight.detach(), made[f"0.{name}"])
    assert data.asked == []


def test_the_last_look_is_at_the_model_that_is_kept() -> None:
    looked: list[dict[str, torch.Tensor]] = []

    def observe(step: int, network: nn.Module) -> None:
        looked.append({name: weight.detach().clone() for name, weight in network.named_parameters()})

    seed_everything(5)
    objective = Denoise()
    settings = SETTINGS.model_copy(update={"ema": 0.9})
    train(objective, ToyData(), settings, seed=3, observe=observe, observations=2)
    kept = dict(objective.exported.named_parameters())
    assert all(torch.equal(looked[-1][name], kept[name]) for name in kept)
    assert not any(torch.equal(looked[0][name], kept[name]) for name in kept)


def test_nothing_is_written_before_the_first_update() -> None:
    """A player whose turn comes rarely (a generator after five turns of its critic) has moved nothing yet."""
    averages = PowerAverages(One(), PowerAverageSettings(snapshots=1), None)
    averages.keep()
    assert averages.in_memory == {}
    averages.weights["weight"].data.fill_(2.0)
    averages.update()
    averages.keep()
    averages.adopt(0.1)
    assert averages.weights["weight"].item() == pytest.approx(2.0)


def test_what_cannot_be_chosen_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="snapshots of 1 or more"):
        TrainingSettings.read({"averages": {"choose": 0.1}}, "test")
    with pytest.raises(UserError, match="snapshots: 8"):
        read(tmp_path)
