"""Facts about shared layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from genforge.contracts import ImageShape
from genforge.networks.layers import (
    Dropout,
    Flatten,
    FourierEmbedding,
    SinusoidalEmbedding,
    SpectralNorm,
    group_norm,
    halvings,
    spectral_norm,
)


@pytest.mark.parametrize(
    ("side", "count", "smallest"), [(8, 1, 4), (12, 2, 3), (20, 2, 5), (28, 2, 7), (44, 2, 11), (60, 2, 15), (64, 4, 4)]
)
def test_halving_stops_at_four_or_an_odd_side(side: int, count: int, smallest: int) -> None:
    assert halvings(ImageShape(1, side, side)) == count
    assert side >> count == smallest


def test_dropout_keeps_the_mean_and_tells_the_gradient_which_values_it_dropped() -> None:
    torch.manual_seed(0)
    values, dropout = torch.ones(400, 500, requires_grad=True), Dropout(0.3)
    dropped = dropout(values)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    torch.testing.assert_close(dropped[dropped != 0].unique(), torch.tensor([1 / 0.7]))
    dropped.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, dropped.detach())
    assert dropout(values.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(dropout.eval()(values), values)


def test_spectral_norm_brings_the_largest_singular_value_to_one() -> None:
    torch.manual_seed(0)
    layer = spectral_norm(nn.Conv2d(6, 9, 3)).train()
    for _ in range(200):
        _ = layer.weight
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=1e-4)


def test_spectral_norm_has_the_exact_gradient_when_converged() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 5, dtype=torch.float64)
    norm = SpectralNorm(weight, warm_up=300).double().eval()
    target = torch.randn(4, 5, dtype=torch.float64)

    def loss(matrix: torch.Tensor, exact: bool) -> torch.Tensor:
        normal = matrix / torch.linalg.matrix_norm(matrix, ord=2) if exact else norm(matrix)
        return (normal * target).sum()

    ours, exact = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    loss(ours, exact=False).backward()
    loss(exact, exact=True).backward()
    torch.testing.assert_close(ours.grad, exact.grad, atol=1e-6, rtol=1e-6)


def test_spectral_norm_stands_still_in_evaluation_and_moves_in_training() -> None:
    torch.manual_seed(0)
    layer = spectral_norm(nn.Linear(8, 8))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    _ = layer.eval().weight
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    _ = layer.train().weight
    assert not all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_spectral_norm_estimates_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layer = spectral_norm(nn.Linear(64, 64)).eval()
    plain = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, plain)


def test_two_passes_before_one_backward_pass() -> None:
    layer = spectral_norm(nn.Linear(4, 4)).train()
    (layer(torch.randn(2, 4)).sum() + layer(torch.randn(2, 4)).sum()).backward()
    assert all(weight.grad is not None for weight in layer.parameters())


def test_embedding_is_ho_s_at_a_thousandth_of_a_step() -> None:
    step, size = 250, 32
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(size // 2) / (size // 2 - 1))
    expected = torch.cat([(step * frequencies).sin(), (step * frequencies).cos()])
    torch.testing.assert_close(SinusoidalEmbedding(size)(torch.tensor([0.25]))[0], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("channels", [4, 8, 12, 20, 32, 48, 96, 256])
def test_groups_divide_the_channels(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert channels // groups >= 4
    assert groups <= 32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_group_normalisation_scales_and_shifts_each_image_by_itself(layout: torch.memory_format) -> None:
    """As its weights and then the image's own would, one after the other; and so do slopes."""
    torch.manual_seed(0)
    layer = group_norm(16)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    images = torch.randn(3, 16, 4, 5).contiguous(memory_format=layout).requires_grad_()
    scale, shift = (torch.randn(3, 16, requires_grad=True) for _ in range(2))
    plain = nn.functional.group_norm(images, 4, layer.weight, layer.bias)
    expected = plain * (1 + scale)[:, :, None, None] + shift[:, :, None, None]
    found = layer(images, scale, shift)
    torch.testing.assert_close(found, expected)
    towards, given = torch.randn(3, 16, 4, 5), (images, scale, shift, layer.weight, layer.bias)
    slopes = torch.autograd.grad(expected, given, towards)
    torch.testing.assert_close(torch.autograd.grad(found, given, towards), slopes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer(images), plain)


def test_fourier_features_of_near_times_are_near() -> None:
    """Their mean product is a Gaussian of the difference: E[cos(w d)] = exp(-d^2 (2 pi scale)^2 / 2) for normal w."""
    torch.manual_seed(0)
    embed = FourierEmbedding(20_000, scale=2.0)
    first, second = embed(torch.full((5,), 0.3)), embed(0.3 + torch.tensor([0.0, 0.02, 0.05, 0.1, 1.0]))
    alike = (first * second).sum(1) / 10_000
    difference = 2 * torch.pi * 2.0 * torch.tensor([0.0, 0.02, 0.05, 0.1, 1.0])
    torch.testing.assert_close(alike, (-(difference**2) / 2).exp(), atol=0.03, rtol=0)


def test_fourier_frequencies_are_kept_with_the_weights() -> None:
    first, second = FourierEmbedding(8), FourierEmbedding(8)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(torch.tensor([0.7])), second(torch.tensor([0.7])))


def test_the_slope_of_what_is_flattened_lies_as_its_images_did() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        images = torch.randn(2, 3, 4, 4).contiguous(memory_format=layout).requires_grad_()
        seen: list[torch.Tensor] = []
        images.register_hook(seen.append)
        flat = Flatten()(images)
        (flat * torch.arange(48.0)).sum().backward()
        assert torch.equal(flat, images.flatten(1))
        assert torch.equal(seen[0].flatten(1), torch.arange(48.0).repeat(2, 1))
        assert seen[0].is_contiguous(memory_format=layout)
