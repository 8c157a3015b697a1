from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from genforge.contracts import ImageShape, Port
from genforge.networks.unet import Attention, Grow, Pointwise, UNet, UNetSettings


def unet(side: int, **settings: object) -> UNet:
    image = ImageShape(1, side, side)
    return UNet(UNetSettings.read({"width": 8, **settings}, "test"), Port("backbone", image, outputs=1))


def test_begins_as_nothing() -> None:
    network = unet(8)
    assert (network(torch.randn(2, 1, 8, 8), torch.rand(2)) == 0).all()


def test_levels_end_where_a_side_is_odd_or_four() -> None:
    assert len(unet(28, multipliers=[1, 1, 1, 1, 1]).down) == 3  # 28, 14, 7
    assert len(unet(8, multipliers=[1, 1, 1, 1, 1]).down) == 2  # 8, 4
    assert len(unet(64, multipliers=[1, 1]).down) == 2


def test_attention_is_where_it_is_asked_for() -> None:
    def count(network: UNet) -> int:
        return sum(isinstance(module, Attention) for module in network.modules())

    assert count(unet(28, attention_up_to=0)) == 0
    assert count(unet(28, attention_up_to=7)) == 4  # one down, two in the middle, one up
    assert count(unet(28, attention_up_to=14)) == 6


def test_attention_sees_the_whole_image() -> None:
    """A pixel in one corner changes the opposite one through attention, and could not through one 3x3 layer."""
    torch.manual_seed(0)
    layer = Attention(8, head_width=4)
    torch.nn.init.normal_(layer.project_out.weight)
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[0, :, 0, 0] += 1
    assert (layer(x)[0, :, 7, 7] - layer(changed)[0, :, 7, 7]).abs().sum() > 1e-4


def test_time_changes_the_output() -> None:
    torch.manual_seed(0)
    network = unet(8)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    images = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(network(images, torch.tensor([0.1])), network(images, torch.tensor([0.9])), atol=1e-4)


def test_growing_is_a_convolution_of_the_doubled_image() -> None:
    layer, x = Grow(3), torch.randn(2, 3, 5, 4)
    doubled = functional.interpolate(x, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(layer(x), functional.conv2d(doubled, layer.weight, layer.bias, padding=1))


def test_a_product_with_every_pixel_is_a_1x1_convolution() -> None:
    """And what comes out lies in memory as what goes in."""
    layer = Pointwise(3, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, 4, 6).contiguous(memory_format=layout)
        torch.testing.assert_close(layer(x), functional.conv2d(x, layer.weight, layer.bias))
        assert layer(x).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("learning", [False, True])
def test_attention_in_bfloat16_is_attention(learning: bool) -> None:
    """Its memory is laid out by precision and by whether it learns; what it gives is not."""
    torch.manual_seed(0)
    layer, x = Attention(8, head_width=4), torch.randn(2, 8, 4, 4)
    torch.nn.init.normal_(layer.project_out.weight)
    with torch.set_grad_enabled(learning):
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(x).float(), expected, atol=0.15, rtol=0.05)
