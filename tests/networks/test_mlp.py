"""The classic pair, and what its settings change."""

from __future__ import annotations

import torch
from torch import nn

from genforge.contracts import ImageShape, Port
from genforge.networks.mlp import Critic, CriticSettings, Generator, GeneratorSettings

MNIST = ImageShape(1, 28, 28)


def widths(module: nn.Module) -> list[int]:
    """Sizes of the values from the input of the first linear layer to the output of the last."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def test_the_classic_pair_at_28() -> None:
    generator = Generator(GeneratorSettings(), Port("latent_to_image", MNIST, latent_size=100))
    critic = Critic(CriticSettings(), Port("image_to_vector", MNIST, outputs=1))
    assert widths(generator) == [100, 256, 512, 1024, 784]
    assert widths(critic) == [784, 1024, 512, 256, 1]


def test_dropout_is_for_training_alone() -> None:
    critic = Critic(CriticSettings(widths=(64, 64), dropout=0.5), Port("image_to_vector", MNIST, outputs=1))
    images = torch.randn(4, 1, 28, 28)
    assert not torch.equal(critic(images), critic(images))
    critic.eval()
    assert torch.equal(critic(images), critic(images))


def test_the_head_sees_the_features() -> None:
    critic = Critic(CriticSettings(widths=(16, 8)), Port("image_to_vector", MNIST, outputs=1))
    images = torch.randn(4, 1, 28, 28)
    assert critic.features(images).shape == (4, 8)
    assert torch.equal(critic.head(critic.features(images)), critic(images))
