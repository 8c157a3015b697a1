"""Styles drawn to the mean, and noise that is each image's own."""

from __future__ import annotations

import pytest
import torch

from genforge import randomness
from genforge.catalog import build_sampler
from genforge.contracts import Draw, ImageShape
from genforge.networks.style import Generator
from genforge.samplers.style import Style
from genforge.settings import UserError
from tests.networks.network_cases import build

DRAW = Draw(5, torch.arange(12))


def sampler(**settings: object) -> Style:
    built = build_sampler({"name": "style", **settings})
    assert isinstance(built, Style)
    return built


def generator() -> Generator:
    network = build("style-generator", ImageShape(1, 8, 8))
    assert isinstance(network, Generator)
    network.style_mean.copy_(torch.randn(16))
    return network.eval()


def test_image_i_of_a_seed_is_the_same_at_any_batch_size_noise_and_all() -> None:
    network, whole = generator(), sampler().sample(generator(), DRAW)
    for size in (1, 5):
        parts = torch.cat([sampler().sample(network, part) for part in DRAW.split(size)])
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    backwards = sampler().sample(network, Draw(5, DRAW.indices.flip(0)))
    torch.testing.assert_close(backwards.flip(0), whole, atol=1e-5, rtol=1e-5)


def test_two_images_of_one_latent_differ_by_their_noise_alone() -> None:
    network = generator()
    latents = sampler().latents(network, DRAW)[:1].expand(12, -1)
    images = sampler().from_latents(network, latents, DRAW)
    assert (images[1:] - images[:1]).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    constant = sampler(noise="constant").from_latents(network, latents, DRAW)
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))


def test_without_truncation_and_with_constant_noise_it_is_the_network_itself() -> None:
    network = generator()
    latents = randomness.normal(5, DRAW.indices, (network.port.latent_size,))
    with torch.no_grad():
        torch.testing.assert_close(sampler(noise="constant").sample(network, DRAW), network(latents))


def test_truncation_goes_in_a_straight_line_to_the_mean_style() -> None:
    """With a network whose image is its style, w' is E[w] + psi (w - E[w])."""
    network = generator()
    seen: list[torch.Tensor] = []
    network.synthesise = lambda styles, noise=None: (seen.append(styles), torch.zeros(len(styles), 1, 8, 8))[1]  # type: ignore[method-assign]
    for share in (1.0, 0.5):
        sampler(truncation=share).sample(network, DRAW)
    mean = network.style_mean
    torch.testing.assert_close(seen[1] - mean, 0.5 * (seen[0] - mean), atol=1e-5, rtol=1e-5)


def test_a_network_without_styles_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"sampler.name: 'style' draws from networks that have styles.*one-shot"):
        sampler().check(build("dcgan-generator", ImageShape(1, 8, 8)))
