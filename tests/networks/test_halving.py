"""Convolutions that halve and double are torch's: the same values, slopes and slopes of slopes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from genforge.networks.halving import FEW_CHANNELS, FEW_PLACES, Double, Halve, _Double, _Halve

ON_TORCH: dict[type[nn.Module], Callable[..., Tensor]] = {
    Halve: functional.conv2d,
    Double: functional.conv_transpose2d,
}
MANY = FEW_CHANNELS + 3
SIDES = [(2, 4), (2 * FEW_PLACES, 4), (2 * FEW_PLACES + 2, 2 * FEW_PLACES + 4)]  # of the larger images
CHANNELS = [(1, MANY), (3, 5), (MANY, 2)]  # of the larger images, and of the smaller ones


def drawn(kind: type[nn.Module], channels: tuple[int, int], sides: tuple[int, int], batch: int = 2) -> list[Tensor]:
    """Images, weight and bias, float64."""
    generator = torch.Generator().manual_seed(1)
    (large, small), (height, width) = channels, sides
    inputs, outputs = (large, small) if kind is Halve else (small, large)
    if kind is Double:
        height, width = height // 2, width // 2
    shapes = ((batch, inputs, height, width), (small, large, 4, 4), (outputs,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("kind", ON_TORCH, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_sums_are_torchs(
    kind: type[nn.Module],
    sides: tuple[int, int],
    channels: tuple[int, int],
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    def differentiated(compute: Callable[..., Tensor]) -> list[Tensor]:
        """Values, their slopes, and the slopes of a penalty on the slope in the images."""
        arguments = drawn(kind, channels, sides)
        values = compute(*arguments)
        first = torch.autograd.grad(values.square().sum(), arguments, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), arguments)
        return [values, *first, *second]

    fast = _Halve.apply if kind is Halve else _Double.apply
    for ours, torchs in zip(
        differentiated(fast), differentiated(lambda *arguments: ON_TORCH[kind](*arguments, 2, 1)), strict=True
    ):
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("function", [_Halve, _Double])
def test_slopes_are_those_of_the_values(function: type[torch.autograd.Function]) -> None:
    arguments = drawn(Halve if function is _Halve else Double, (2, 3), (4, 4), batch=1)
    assert gradcheck(function.apply, arguments)
    assert gradgradcheck(function.apply, arguments)


@pytest.mark.parametrize("kind", ON_TORCH, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("sides", SIDES[1:], ids=str)
def test_bfloat16_is_no_coarser_than_torchs(
    kind: type[nn.Module], layout: torch.memory_format, sides: tuple[int, int]
) -> None:
    images, weight, bias = (part.detach().float() for part in drawn(kind, (3, 32), sides, batch=4))
    layer = kind(images.shape[1], len(bias))
    layer.load_state_dict({"weight": weight, "bias": bias})
    layer.to(memory_format=layout)

    def made(compute: Callable[[Tensor], Tensor], bfloat16: bool) -> list[Tensor]:
        layer.zero_grad()
        shown = images.contiguous(memory_format=layout).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            values = compute(shown)
        assert values.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
        values.float().square().mean().backward()
        slopes = (shown.grad, layer.weight.grad, layer.bias.grad)
        return [values.detach().float(), *(slope.clone() for slope in slopes if isinstance(slope, Tensor))]

    def on_torch(shown: Tensor) -> Tensor:
        return ON_TORCH[kind](shown, layer.weight, layer.bias, 2, 1)

    def error(found: Tensor, true: Tensor) -> float:
        return ((found - true).norm() / true.norm()).item()

    true = made(on_torch, bfloat16=False)
    for exact, ours, torchs in zip(true, made(layer, bfloat16=True), made(on_torch, bfloat16=True), strict=True):
        assert error(ours, exact) < max(1.2 * error(torchs, exact), 0.004)


@pytest.mark.parametrize("kind", ON_TORCH, ids=lambda kind: kind.__name__)
def test_in_float32_it_is_torchs_own_layer(kind: type[nn.Module]) -> None:
    images, weight, bias = (part.detach().float() for part in drawn(kind, (3, 5), (8, 8)))
    layer = kind(images.shape[1], len(bias))
    layer.load_state_dict({"weight": weight, "bias": bias})
    assert torch.equal(layer(images), ON_TORCH[kind](images, weight, bias, 2, 1))


def test_a_slope_lies_as_the_images_do() -> None:
    seen: list[Tensor] = []
    layer = Double(8, 4)
    for layout in (torch.contiguous_format, torch.channels_last):
        layer.to(memory_format=layout)
        images = torch.randn(2, 8, 4, 4).requires_grad_()  # of channels first: what a linear layer made
        images.register_hook(seen.append)
        with torch.autocast("cpu", torch.bfloat16):
            layer(images).sum().backward()
    assert all(slope.is_contiguous() for slope in seen) and len(seen) == 2
