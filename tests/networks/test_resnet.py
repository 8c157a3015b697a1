"""The shapes of the paper's table, at its size and at others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genforge.contracts import ImageShape, Port
from genforge.networks.resnet import Critic, CriticSettings, Generator, GeneratorSettings, critic_halvings


def test_the_cifar_generator() -> None:
    """Miyato et al. 2018, Table 4: dense to 4x4x256, three blocks of 256 channels that double, one convolution."""
    network = Generator(GeneratorSettings(), Port("latent_to_image", ImageShape(3, 32, 32), latent_size=128))
    assert network.base == (256, 4, 4)
    assert len(network.blocks) == 3
    assert {layer.out_channels for layer in network.blocks.modules() if isinstance(layer, nn.Conv2d)} == {256}


def test_the_cifar_critic() -> None:
    """Miyato et al. 2018, Table 4: two blocks of 128 channels that halve, two that do not, the sum over 8x8, one
    number."""
    network = Critic(CriticSettings(), Port("image_to_vector", ImageShape(3, 32, 32), outputs=1))
    sizes = [tuple(values.shape[1:]) for values in _between(network, torch.randn(1, 3, 32, 32))]
    assert sizes == [(128, 16, 16), (128, 8, 8), (128, 8, 8), (128, 8, 8), (128, 8, 8)]  # the last is the rectifier's
    assert network.features(torch.randn(2, 3, 32, 32)).shape == (2, 128)


def _between(network: Critic, images: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for block in network.blocks:
        images = block(images)
        found.append(images)
    return found


@pytest.mark.parametrize(("side", "left"), [(8, 4), (12, 6), (28, 7), (44, 11), (48, 6), (64, 8)])
def test_the_critic_halves_down_to_eight_or_less(side: int, left: int) -> None:
    assert side >> critic_halvings(ImageShape(1, side, side)) == left


def test_the_first_block_sees_the_darker_half_of_the_image() -> None:
    critic = Critic(CriticSettings(width=8), Port("image_to_vector", ImageShape(1, 8, 8), outputs=1)).eval()
    dark, darker = -0.5 * torch.rand(1, 1, 8, 8), -0.5 - 0.5 * torch.rand(1, 1, 8, 8)
    branches = [block.branch for block in list(critic.blocks)[:-1]]
    assert not torch.allclose(branches[0](dark), branches[0](darker))
    for branch in branches[1:]:  # all others begin with a rectifier
        images = torch.rand(1, 8, 4, 4)
        torch.testing.assert_close(branch(-images), branch(-2 * images))


def test_images_are_within_range() -> None:
    port = Port("latent_to_image", ImageShape(1, 28, 28), latent_size=4)
    assert Generator(GeneratorSettings(width=8), port)(1000 * torch.randn(8, 4)).abs().max() <= 1
