"""What every sampler of denoisers promises. A newcomer inherits these by its line in the catalog."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genforge import randomness
from genforge.catalog import SAMPLERS, build_sampler, target
from genforge.contracts import Draw
from genforge.networks.denoiser import Denoiser
from genforge.samplers import diffusion
from genforge.samplers.diffusion import DiffusionSampler
from genforge.settings import UserError
from tests.networks.network_cases import EIGHT, build

ALL = sorted(name for name in SAMPLERS if "denoiser" in target("sampler", name).kinds)
DENOISERS = ["ddpm-denoiser", "edm-denoiser", "flow-matching-denoiser"]


def sampler(name: str, **settings: Any) -> DiffusionSampler:
    built = build_sampler({"name": name, **settings})
    assert isinstance(built, DiffusionSampler)
    return built


def denoiser(name: str = "edm-denoiser") -> Denoiser:
    network = build(name, EIGHT).eval()
    assert isinstance(network, Denoiser)
    return network


@pytest.mark.parametrize("denoiser_name", DENOISERS)
@pytest.mark.parametrize("name", ALL)
def test_a_seed_s_image_is_the_same_at_any_batch_size_from_any_denoiser(name: str, denoiser_name: str) -> None:
    drawing, network = sampler(name, steps=3), denoiser(denoiser_name)
    whole = drawing.sample(network, Draw(5, torch.arange(4)))
    assert whole.shape == (4, 1, 8, 8) and torch.isfinite(whole).all()
    assert not whole.requires_grad
    parts = torch.cat([drawing.sample(network, part) for part in Draw(5, torch.arange(4)).split(3)])
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    backwards = drawing.sample(network, Draw(5, torch.arange(3, -1, -1)))
    torch.testing.assert_close(backwards.flip(0), whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(drawing.sample(network, Draw(6, torch.arange(4))), whole, atol=1e-2)


@pytest.mark.parametrize("name", ALL)
def test_the_trajectory_is_the_denoiser_s_grid_and_ends_with_its_images(name: str) -> None:
    drawing, network, draw = sampler(name, steps=4), denoiser(), Draw(7, torch.arange(2))
    states = list(drawing.trajectory(network, draw))
    assert [state.sigma for state in states] == drawing.grid(network)[1:].tolist()
    assert torch.equal(states[-1].noisy, states[-1].clean)
    assert torch.equal(states[-1].noisy, drawing.sample(network, draw))


@pytest.mark.parametrize("name", ALL)
def test_one_step_is_the_denoiser_itself(name: str) -> None:
    network, draw = denoiser(), Draw(7, torch.arange(2))
    noisy = 80.0 * randomness.normal(7, draw.indices, (1, 8, 8))
    with torch.no_grad():
        expected = network(noisy, torch.full((2,), 80.0)).clamp(-1, 1)
    torch.testing.assert_close(sampler(name, steps=1).sample(network, draw), expected)


@pytest.mark.parametrize("name", ALL)
def test_evaluations_are_one_a_step_and_heun_s_two_but_for_the_last(name: str) -> None:
    calls: list[float] = []

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        calls.append(sigma.item())
        return 0.5 * noisy

    levels = torch.tensor([3.0, 2.0, 1.0, 0.0])
    list(sampler(name).walk(denoise, torch.randn(1, 1, 2, 2), levels, lambda stream: torch.randn(1, 1, 2, 2)))
    assert calls == ([3.0, 2.0, 2.0, 1.0, 1.0] if name == "heun" else [3.0, 2.0, 1.0])


@pytest.mark.parametrize("name", ALL)
def test_levels_may_be_stated_one_by_one(name: str) -> None:
    levels = (70.0, 5.0, 0.4)
    network, draw = denoiser(), Draw(0, torch.arange(2))
    states = list(sampler(name, sigmas=levels).trajectory(network, draw))
    assert [state.sigma for state in states] == pytest.approx([5.0, 0.4, 0.0])


@pytest.mark.parametrize("denoiser_name", DENOISERS)
@pytest.mark.parametrize("spacing", ["karras", "logarithmic"])
def test_spacings_fall_over_the_denoiser_s_whole_range(spacing: str, denoiser_name: str) -> None:
    network = denoiser(denoiser_name)
    low, high = network.sigma_range()
    grid = sampler("euler", steps=12, spacing=spacing).grid(network)
    assert grid.dtype == torch.float32 and (grid.diff() < 0).all()
    assert [grid[0].item(), grid[-2].item(), grid[-1].item()] == pytest.approx([high, low, 0.0], rel=1e-4)
    if spacing == "logarithmic":
        ratios = grid[1:-1] / grid[:-2]
        torch.testing.assert_close(ratios, ratios[:1].expand(11), rtol=1e-4, atol=0)


@pytest.mark.parametrize("levels", [(1.0, 2.0), (2.0, 2.0), (100.0, 1.0), (1.0, 0.0001)], ids=str)
def test_levels_that_do_not_fall_within_the_range_are_told(levels: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"sampler.sigmas is .*; it should fall, between 80 and 0.002"):
        sampler("heun", sigmas=levels).check(denoiser())


@pytest.mark.parametrize("name", ALL)
def test_a_network_in_training_mode_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="training mode"):
        sampler(name, steps=2).sample(denoiser().train(), Draw(0, torch.arange(2)))


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_is_the_network_s_alone_and_gives_nearly_the_same_images(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion, "_multiplies_bfloat16", lambda: True)  # what it lacks, a processor imitates
    network, draw, types = denoiser(), Draw(5, torch.arange(3)), set()
    layer = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    layer.register_forward_hook(lambda _, inputs, output: types.add(output.dtype))
    wanted = sampler(name, steps=3).sample(network, draw)
    assert types == {torch.float32}
    types.clear()
    found = sampler(name, steps=3, precision="bfloat16").sample(network, draw)
    assert types == {torch.bfloat16} and found.dtype == torch.float32
    assert 0 < (found - wanted).abs().mean() < 0.02


def test_bfloat16_is_left_out_where_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diffusion, "multiplies_bfloat16", lambda: False)
    diffusion._multiplies_bfloat16.cache_clear()
    network, draw = denoiser(), Draw(5, torch.arange(2))
    lacking = [sampler("ddim", steps=2, precision="bfloat16").sample(network, draw) for _ in range(2)]
    diffusion._multiplies_bfloat16.cache_clear()
    assert torch.equal(lacking[0], sampler("ddim", steps=2).sample(network, draw))
    assert capsys.readouterr().err.count("left out: sampler.precision: bfloat16") == 1, "one line a process"


@pytest.mark.parametrize("name", ALL)
def test_settings_survive_json(name: str) -> None:
    settings = target("sampler", name).settings_type
    read = settings.read({"sigmas": [3.0, 1.0], "guidance": 2.0}, "test")
    assert settings.read(read.model_dump(mode="json"), "test") == read
