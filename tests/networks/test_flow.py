"""Flows are invertible to rounding, and what they say of volume is what differentiating says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genforge.contracts import CELL, POINT, ImageShape
from genforge.networks.flow import ActivationNorm, Channels, Checkerboard, Flow, Logit, squeeze, unsqueeze
from genforge.settings import UserError
from tests.networks.network_cases import build, port

FLOWS: list[tuple[str, ImageShape, dict[str, Any]]] = [
    ("realnvp", ImageShape(1, 28, 28), {"scales": 3}),
    ("realnvp", ImageShape(3, 12, 12), {"scales": 2}),
    ("realnvp", ImageShape(1, 8, 8), {"scales": 1, "alpha": None}),
    ("realnvp-mlp", POINT, {"couplings": 16}),
    ("realnvp-mlp", ImageShape(1, 8, 8), {"alpha": 0.05}),
]


def flow(name: str, image: ImageShape, settings: dict[str, Any], classes: int = 0) -> Flow:
    network = build(name, image, classes, **settings).eval()
    assert isinstance(network, Flow)
    with torch.no_grad():  # far from the identity, where each coupling begins
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


def images(image: ImageShape, count: int = 16) -> Tensor:
    return torch.rand(count, image.channels, image.height, image.width) * 2 - 1


@pytest.mark.parametrize("name, image, settings", FLOWS, ids=str)
def test_what_is_encoded_comes_back(name: str, image: ImageShape, settings: dict[str, Any]) -> None:
    network, given = flow(name, image, settings), images(image)
    with torch.no_grad():
        latent, _ = network.encode(given)
        assert latent.shape == (16, image.size) and (latent - given.flatten(1)).abs().max() > 0.1
        assert (network(latent) - given).abs().max() < 1e-4
        if not any(isinstance(layer, Logit) for layer in network.modules()):  # which flattens out far from the data
            noise = torch.randn(16, image.size)
            assert (network.encode(network(noise))[0] - noise).abs().max() < 1e-3


@pytest.mark.parametrize(
    "name, image, settings",
    [("realnvp", ImageShape(1, 8, 8), {}), ("realnvp", ImageShape(3, 4, 8), {"alpha": None}), *FLOWS[3:]],
    ids=str,
)
def test_the_log_determinant_is_the_jacobian_s(name: str, image: ImageShape, settings: dict[str, Any]) -> None:
    network, given = flow(name, image, settings).double(), images(image, 2).double()
    # `encode` brings images to float32; the Jacobian is taken around that, so that rounding is all that is between.
    _, told = network.float().encode(given.float())
    for one, expected in zip(given, told, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: network.encode(x[None])[0][0], one.float())
        assert isinstance(jacobian, Tensor)
        found = torch.linalg.slogdet(jacobian.reshape(image.size, image.size).double()).logabsdet
        assert found.item() == pytest.approx(expected.item(), abs=1e-3 * max(1.0, image.size / 20))


@pytest.mark.parametrize("name", ["realnvp", "realnvp-mlp"])
def test_the_first_batch_sets_activation_normalisation_layer_after_layer(name: str) -> None:
    network = build(name, ImageShape(1, 8, 8))
    assert isinstance(network, Flow)
    given = 0.3 + 0.1 * torch.randn(200, 1, 8, 8)
    network.adapt(given)
    seen: list[Tensor] = []
    for layer in network.modules():
        if isinstance(layer, ActivationNorm):
            layer.register_forward_hook(lambda _, __, out: seen.append(out[0]))
    with torch.no_grad():
        network.encode(given)
    assert len(seen) >= 4
    for values in seen:
        flat = values.transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat.mean(dim=1), torch.zeros(len(flat)), atol=1e-3, rtol=0)
        torch.testing.assert_close(flat.std(dim=1, correction=0), torch.ones(len(flat)), atol=1e-3, rtol=0)


def test_a_constant_channel_does_not_blow_up() -> None:
    layer = ActivationNorm(2)
    with layer.adapting():
        out, determinant = layer(torch.zeros(5, 2, 3, 3), None)
    assert torch.isfinite(out).all() and torch.isfinite(determinant).all()


def test_a_density_integrates_to_one_over_the_plane() -> None:
    network = flow(*FLOWS[3])
    axis = torch.linspace(-12, 12, 500)
    points = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
    with torch.no_grad():
        mass = network.log_density(points).double().exp().sum().item() * (24 / 499) ** 2
    assert mass == pytest.approx(1.0, abs=0.01)


def test_halves_come_together_again_and_are_those_of_a_checkerboard() -> None:
    x = torch.arange(2.0 * 3 * 4 * 6).view(2, 3, 4, 6)
    assert torch.equal(unsqueeze(squeeze(x)), x)
    row, column = torch.arange(4)[:, None], torch.arange(6)
    light = ((row + column) % 2 == 0).expand(2, 3, 4, 6)
    for turned in (False, True):
        for halves in (Checkerboard(3, turned), Channels(3, turned)):
            a, b = halves.split(x)
            assert (a.shape[1], b.shape[1]) == (halves.read, halves.changed)
            assert torch.equal(halves.merge(a, b), x)
        a, _ = Checkerboard(3, turned).split(x)
        assert set(a.flatten().tolist()) == set(x[light != turned].tolist())


def test_the_logit_reaches_from_the_darkest_to_the_lightest_cell() -> None:
    layer = Logit(0.05)
    ends = torch.tensor([-1 - CELL / 2, 0.0, 1 + CELL / 2]).view(3, 1, 1, 1)
    out, _ = layer(ends, None)
    assert out.flatten().tolist() == pytest.approx([-2.9444, 0.0, 2.9444], abs=1e-3)  # log(19): logit of 0.95
    assert torch.allclose(layer.inverse(out, None), ends, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.0005])
def test_the_smaller_alpha_the_more_of_the_line_is_black(alpha: float) -> None:
    cell = torch.tensor([-1 - CELL / 2, -1 + CELL / 2]).view(2, 1, 1, 1)
    low, high = Logit(alpha)(cell, None)[0].flatten().tolist()
    assert high - low == pytest.approx(math.log1p(1 / (256 * alpha)), rel=0.1)  # 0.07 and 2.2, as `Logit` says


def test_a_latent_that_is_too_short_is_told() -> None:
    from genforge.contracts import Port
    from genforge.networks.realnvp_mlp import RealNVPMLP, RealNVPMLPSettings

    with pytest.raises(UserError, match="as long as an image, 64, not 20"):
        RealNVPMLP(RealNVPMLPSettings(), Port("latent_to_image", ImageShape(1, 8, 8), latent_size=20))
    assert port("latent_to_image", POINT).latent_size >= 2
