"""What every network of the catalog promises. A newcomer inherits these by its line in the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genforge.catalog import build_network, target
from genforge.contracts import POINT, ImageShape
from genforge.networks.autoguided import Autoguided
from genforge.settings import UserError
from tests.networks.network_cases import ALL, CONDITIONED, OF_POINTS, build, inputs, moments, output_shape, port

SIZES, CHANNELS = (8, 12, 28, 32, 64), (1, 3)
EIGHT = ImageShape(1, 8, 8)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ALL)
def test_shapes_at_every_size(name: str, size: int, channels: int) -> None:
    network = build(name, ImageShape(channels, size, size)).eval()
    with torch.no_grad():
        output = network(*inputs(network, 2))
    assert output.shape == output_shape(network, 2)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("size", range(8, 65, 4))
@pytest.mark.parametrize("name", [name for name in CONDITIONED if name != "ddpm-denoiser"])
def test_every_multiple_of_four_is_native(name: str, size: int) -> None:
    network = build(name, ImageShape(1, size, size)).eval()
    with torch.no_grad():
        assert network(*inputs(network, 1)).shape == output_shape(network, 1)


@pytest.mark.parametrize("name", ALL)
def test_sides_may_differ(name: str) -> None:
    network = build(name, ImageShape(1, 16, 12)).eval()
    with torch.no_grad():
        assert network(*inputs(network, 2)).shape == output_shape(network, 2)


@pytest.mark.parametrize("name", ALL)
def test_points_are_taken_or_refused(name: str) -> None:
    if name not in OF_POINTS:
        with pytest.raises(UserError, match="points of the plane"):
            build(name, POINT)
        return
    network = build(name, POINT).eval()
    with torch.no_grad():
        assert network(*inputs(network, 5)).shape == output_shape(network, 5)


@pytest.mark.parametrize("size", [8, 12, 28])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_reach_every_parameter(name: str, size: int) -> None:
    network = build(name, ImageShape(3, size, size)).train()
    if not list(network.parameters()):
        pytest.skip("nothing here is learned by gradients")
    apart = [network.guide] if isinstance(network, Autoguided) else []  # what samplers ask, and `forward` does not
    for _ in moments(network):
        for part in (network, *apart):
            part(*inputs(network, 4)).square().sum().backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None, key
        assert torch.isfinite(weight.grad).all(), key
        if weight.dim() > 1:  # a bias before batch normalisation has no effect, and so no gradient
            assert weight.grad.abs().sum() > 0, key


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_depend_on_its_batch(name: str, size: int) -> None:
    network = build(name, ImageShape(1, size, size))
    given = inputs(network, 64)
    if list(network.parameters()):
        network.train()(*given)  # gives batch normalisation something to remember
    network.eval()
    with torch.no_grad():
        whole = network(*given)
        for count in (1, 7):
            part = network(*(value[:count] for value in given))
            torch.testing.assert_close(part, whole[:count], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_weights_survive_safetensors(name: str, tmp_path: Path) -> None:
    network = build(name, EIGHT)
    if list(network.parameters()):
        network.train()(*inputs(network, 8))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    again = build_network(_choice(name), network.port, "test")
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(*inputs(again, 3)), network.eval()(*inputs(network, 3)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_settings_survive_json(name: str) -> None:
    settings = target("network", name).settings_type
    defaults = settings.read({}, "test")
    assert settings.read(defaults.model_dump(mode="json"), "test") == defaults


@pytest.mark.parametrize("name", CONDITIONED)
def test_labels_change_the_output_and_are_asked_for(name: str) -> None:
    network = build(name, EIGHT, classes=3).eval()
    *given, labels = inputs(network, 6)
    with torch.no_grad():
        assert not torch.allclose(network(*given, labels), network(*given, (labels + 1) % 3), atol=1e-4)
    with pytest.raises(ValueError, match="labels"):
        network(*given)


@pytest.mark.parametrize("name", CONDITIONED)
def test_memory_format_does_not_matter(name: str) -> None:
    network = build(name, ImageShape(3, 8, 8)).eval()
    given = inputs(network, 3)
    with torch.no_grad():
        plain = network(*given)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = [value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value for value in given]
        torch.testing.assert_close(network(*last), plain, atol=1e-5, rtol=1e-5)


def _choice(name: str) -> dict:
    from tests.networks.network_cases import SMALL

    return {"name": name, **SMALL.get(name, {})}


def test_every_kind_has_a_case() -> None:
    for name in ALL:
        assert port(target("network", name).kind, EIGHT).kind == target("network", name).kind
