"""Contrastive divergence: energies go apart, chains are kept, and a known energy stays where it is."""

from __future__ import annotations

import pytest
import torch

from genforge.contracts import POINT, Batch, Port
from genforge.networks.energy import Energy, EnergySettings
from genforge.networks.mlp import Critic, CriticSettings
from genforge.objectives import energy as energy_module
from genforge.objectives.energy import ContrastiveDivergence, ContrastiveDivergenceSettings, walk


def objective(**settings: float) -> ContrastiveDivergence:
    torch.manual_seed(0)
    backbone = Critic(CriticSettings(widths=(32, 32), spectral_norm=True), Port("image_to_vector", POINT, outputs=1))
    energy = Energy(EnergySettings(temperature=0.05, well=1.0), Port("energy", POINT), backbone)
    chosen = ContrastiveDivergenceSettings.read({"steps": 5, "step_size": 0.1, "buffer": 256, **settings}, "objective")
    found = ContrastiveDivergence(chosen, {"energy": energy})
    energy.train()
    return found


def real(count: int = 128) -> Batch:
    return Batch(0.5 + 0.05 * torch.randn(count, 2, 1, 1))


def test_what_is_learned_is_low_where_the_data_are_and_is_drawn_there() -> None:
    cd = objective()
    (player,) = cd.players
    optimizer = torch.optim.Adam(player.module.parameters(), lr=3e-3, betas=(0.0, 0.999))
    for _ in range(150):
        loss = cd.loss(player, real())
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert {"energy_real", "energy_sampled"} <= loss.logs.keys()
    with torch.no_grad():
        energies = cd.energy.eval()(torch.tensor([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]]).view(3, 2, 1, 1))
    assert energies[0] + 2 < energies[1:].min()
    near = (cd.chains[0].flatten(1) - 0.5).norm(dim=1) < 0.4
    assert near.float().mean() > 0.7


def test_the_loss_is_what_lies_between_the_energies_and_a_little_of_their_squares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hinton 2002, eq. 2; Du & Mordatch 2019, section 3.2."""
    cd, batch, drawn = objective(noise=0.0, regularisation=0.25), real(8), torch.rand(8, 2, 1, 1)
    cd.energy.eval()
    monkeypatch.setattr(cd, "_drawn", lambda batch: drawn)
    of_real, of_drawn = (cd.energy(images).double() for images in (batch.images, drawn))
    expected = of_real.mean() - of_drawn.mean() + 0.25 * ((of_real**2).mean() + (of_drawn**2).mean())
    assert cd.loss(cd.players[0], batch).value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("restart", [0.0, 1.0])
def test_chains_begin_where_others_ended_or_anew(restart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cd, begun = objective(buffer=16, restart=restart), []

    def watched(energy: object, begin: torch.Tensor, *rest: object) -> torch.Tensor:
        begun.append(begin.clone())
        return walk(energy, begin, *rest)  # type: ignore[arg-type]

    cd.loss(cd.players[0], real(8))
    kept = cd.state()["part.0.chains"].clone()
    monkeypatch.setattr(energy_module, "walk", watched)
    cd.loss(cd.players[0], real(8))
    known = (begun[0].flatten(1)[:, None] == kept.flatten(1)[None]).all(dim=2).any(dim=1)
    assert known.tolist() == [restart == 0.0] * 8


def test_chains_go_on_where_they_were_left_and_walking_teaches_nothing() -> None:
    cd = objective(buffer=16, restart=0.0)
    (player,) = cd.players
    before = {name: value.clone() for name, value in cd.energy.state_dict().items() if "parametrizations" in name}
    cd.loss(player, real(8))
    first = cd.state()["part.0.chains"].clone()
    cd.loss(player, real(8))
    moved = (cd.state()["part.0.chains"] != first).flatten(1).any(dim=1)
    assert 0 < moved.sum() <= 8
    assert all(weight.grad is None for weight in cd.energy.parameters())
    assert cd.energy.training
    # Power iterations are those of the passes that count: two a turn, and none of the walks'.
    torch.manual_seed(0)
    walked = objective(buffer=16, restart=0.0, steps=50)
    passes = objective(buffer=16, restart=0.0, steps=1)
    for one in (walked, passes):
        one.loss(one.players[0], real(8))
    vectors = [
        {name: value for name, value in one.energy.state_dict().items() if name.endswith(("left", "right"))}
        for one in (walked, passes)
    ]
    assert vectors[0] and before
    for name, value in vectors[0].items():
        torch.testing.assert_close(value, vectors[1][name])


def test_a_limit_holds_for_the_walks_of_training() -> None:
    cd = objective(buffer=16, restart=0.0, limit=0.01)
    cd.energy.temperature = 1e-6  # as steep as a wall
    (player,) = cd.players
    cd.loss(player, real(8))
    assert cd.chains[0].abs().max() < 1 + 5 * (0.01 + 5 * 0.1)  # five steps from the square, slope and noise
