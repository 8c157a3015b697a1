"""Langevin dynamics come to the distribution of a known energy, and to what a finite step makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genforge.contracts import POINT, Draw, Network, Port
from genforge.networks.energy import Energy, EnergySettings
from genforge.samplers.langevin import Langevin, LangevinSettings, walk

DEVIATIONS = torch.tensor([0.5, 0.1])


class Quadratic(Network):
    """Energy of a normal distribution in the plane around (0.3, -0.2)."""

    kind = "energy"
    takes_points = True

    def __init__(self) -> None:
        super().__init__(EnergySettings(), Port("energy", POINT))
        self.centre = torch.nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return ((images.flatten(1) - self.centre) / DEVIATIONS).square().sum(dim=1) / 2


def drawn(count: int = 4000, **settings: float) -> Tensor:
    sampler = Langevin(LangevinSettings.read({"steps": 300, "step_size": 0.1, **settings}, "sampler"))
    return sampler.sample(Quadratic().eval(), Draw(0, torch.arange(count))).flatten(1)


def test_a_quadratic_energy_gives_its_normal_distribution_widened_by_the_step() -> None:
    """x <- (1 - e^2 / 2 s^2) x + e z has the variance s^2 / (1 - e^2 / (4 s^2)) in the end."""
    points, step = drawn(step_size=0.1), 0.1
    expected = DEVIATIONS**2 / (1 - step**2 / (4 * DEVIATIONS**2))
    assert points.mean(dim=0).tolist() == pytest.approx([0.3, -0.2], abs=0.03)
    assert points.var(dim=0).tolist() == pytest.approx(expected.tolist(), rel=0.08)


def test_cooling_ends_below_the_energy_s_own_temperature() -> None:
    assert (drawn(1000, cooling=0.3).var(dim=0)[1] < 0.5 * drawn(1000).var(dim=0)[1]).item()


def test_a_limit_keeps_a_walk_from_running_away_where_a_slope_is_too_steep_and_elsewhere_changes_nothing() -> None:
    def silent(step: int) -> Tensor:
        return torch.zeros(5)

    start = torch.linspace(-1.0, 1.0, 5)
    steep = [walk(lambda x: 400 * x**2, start, 30, 0.1, silent, limit) for limit in (None, 0.1)]
    assert steep[0].abs().max() > 1e6  # each step leads three times as far up the other side
    assert steep[1].abs().max() <= 0.1
    flat = [walk(lambda x: 4 * x**2, start, 30, 0.1, silent, limit) for limit in (None, 0.1)]
    torch.testing.assert_close(flat[0], flat[1], rtol=0, atol=0)


def test_two_wells_are_filled_by_their_weights() -> None:
    """Histogram agreement with a normalised density: two normals of 3 to 1, close enough to be crossed."""

    def energy(x: Tensor) -> Tensor:
        return -torch.log(0.75 * torch.exp(-((x + 0.5) ** 2) / 0.18) + 0.25 * torch.exp(-((x - 0.5) ** 2) / 0.18))

    generator = torch.Generator().manual_seed(0)
    start = torch.rand(3000, generator=generator) * 2 - 1
    points = walk(energy, start, 400, 0.15, lambda step: torch.randn(3000, generator=generator))
    edges = torch.linspace(-1.5, 1.5, 13)
    found = torch.histogram(points, edges).hist / 3000
    fine = torch.linspace(-1.5, 1.5, 1201)[:-1] + 0.00125
    expected = torch.exp(-energy(fine)).view(12, 100).sum(dim=1)
    torch.testing.assert_close(found, expected / expected.sum(), atol=0.025, rtol=0)


def test_an_energy_is_its_network_over_its_temperature_in_a_well() -> None:
    from genforge.networks.mlp import Critic, CriticSettings

    backbone = Critic(CriticSettings(widths=(8,)), Port("image_to_vector", POINT, outputs=1))
    energy = Energy(EnergySettings(temperature=0.1, well=0.5), Port("energy", POINT), backbone)
    points = torch.randn(5, 2, 1, 1)
    expected = backbone(points)[:, 0] / 0.1 + points.square().sum(dim=(1, 2, 3)) / (2 * 0.5**2)
    torch.testing.assert_close(energy(points), expected)
