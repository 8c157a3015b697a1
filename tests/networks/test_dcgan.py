"""The classic shapes of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genforge.contracts import ImageShape, Port
from genforge.networks.dcgan import Critic, CriticSettings, Generator, GeneratorSettings


def test_the_classic_generator_at_64() -> None:
    port = Port("latent_to_image", ImageShape(3, 64, 64), latent_size=100)
    network = Generator(GeneratorSettings(width=128), port)
    assert network.base == (1024, 4, 4)
    widths = [layer.out_channels for layer in network.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert widths == [512, 256, 128, 3]


def test_the_sngan_critic_at_32() -> None:
    """Miyato et al. 2018, Table 3: 64, 64, 128, 128, 256, 256, 512 channels and one number."""
    port = Port("image_to_vector", ImageShape(3, 32, 32), outputs=1)
    network = Critic(CriticSettings(style="sngan", spectral_norm=True), port)
    convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512]
    assert [layer.stride[0] for layer in convolutions] == [1, 2, 1, 2, 1, 2, 1]
    head = network.layers[-1]
    assert isinstance(head, nn.Linear) and head.in_features == 512 * 4 * 4


def test_the_classic_first_weights() -> None:
    """Radford et al. 2016, section 3: a normal of standard deviation 0.02."""
    torch.manual_seed(0)
    networks: list[nn.Module] = [
        Generator(GeneratorSettings(initial_deviation=0.02), Port("latent_to_image", ImageShape(3, 32, 32), 64)),
        Critic(CriticSettings(initial_deviation=0.02), Port("image_to_vector", ImageShape(3, 32, 32), outputs=1)),
    ]
    drawn = [weight for network in networks for weight in network.parameters() if weight.dim() > 1]
    assert len(drawn) == 8
    for weight in drawn:
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(weight.mean().item()) < 5 * 0.02 / weight.numel() ** 0.5


def test_images_are_within_range() -> None:
    network = Generator(GeneratorSettings(width=8), Port("latent_to_image", ImageShape(1, 28, 28), latent_size=4))
    assert network(1000 * torch.randn(8, 4)).abs().max() <= 1
