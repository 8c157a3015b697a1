from __future__ import annotations

from typing import Any

import pytest
import torch

from genforge.catalog import SAMPLERS, build_sampler, target
from genforge.contracts import Draw
from genforge.samplers.one_shot import OneShot, OneShotSettings, truncated
from tests.networks.network_cases import EIGHT, build


def test_truncation_keeps_order_and_bounds_and_gives_the_cut_off_normal() -> None:
    noise = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    cut = truncated(noise, 1.0)
    assert cut.abs().max() <= 1.0
    assert (cut[noise.argsort()].diff() >= 0).all()
    # Variance of a normal cut off at 1: 1 - 2 phi(1) / (2 Phi(1) - 1).
    assert cut.var().item() == pytest.approx(1 - 2 * 0.2419707 / 0.6826895, abs=5e-3)
    torch.testing.assert_close(truncated(noise, 9.0), noise, atol=1e-4, rtol=1e-4)


def test_the_noise_that_images_begin_as_is_cut_off_where_it_is_asked_for() -> None:
    draw, network = Draw(0, torch.arange(200)), build("dcgan-generator", EIGHT).eval()
    plain, cut = (OneShot(OneShotSettings(truncation=limit)).latents(network, draw) for limit in (None, 0.5))
    assert cut.abs().max() <= 0.5 < plain.abs().max() and torch.equal(cut, truncated(plain, 0.5))
    images = OneShot(OneShotSettings(truncation=0.5)).sample(network, draw)
    with torch.no_grad():
        torch.testing.assert_close(images, network(cut).float())


def test_a_network_in_training_mode_is_refused() -> None:
    network = build("dcgan-generator", EIGHT).train()
    with pytest.raises(ValueError, match="training mode"):
        OneShot(OneShotSettings()).sample(network, Draw(0, torch.arange(2)))


def test_labels_reach_the_network() -> None:
    network = build("dcgan-generator", EIGHT, classes=3).eval()
    sampler = OneShot(OneShotSettings())
    zero, one = (sampler.sample(network, Draw(0, torch.arange(2), torch.full((2,), k))) for k in (0, 1))
    assert not torch.allclose(zero, one, atol=1e-4)


@pytest.mark.parametrize("name", sorted(name for name in SAMPLERS if target("sampler", name).one_pass))
def test_a_sampler_of_one_pass_asks_the_network_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images a search's values are of goes by it."""
    network, makes_images = (
        (build("style-generator", EIGHT), "synthesise")
        if name == "style"
        else (build("dcgan-generator", EIGHT), "forward")
    )
    made, passes = getattr(network.eval(), makes_images), []

    def counted(*arguments: Any, **named: Any) -> Any:
        passes.append(arguments)
        return made(*arguments, **named)

    monkeypatch.setattr(network, makes_images, counted)
    build_sampler({"name": name}).sample(network, Draw(0, torch.arange(3)))
    assert len(passes) == 1
