"""The style-based pair against the formulas of the paper, image by image."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from genforge.contracts import ImageShape, Port, WithStyles
from genforge.networks.equalised import EqualisedLinear, MinibatchDeviation, unit_length
from genforge.networks.style import Generator, GeneratorSettings, Modulated, doubled, filtered
from tests.networks.network_cases import build, inputs


def generator(size: int = 16) -> Generator:
    network = build("style-generator", ImageShape(3, size, size))
    assert isinstance(network, Generator)
    return network


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_a_modulated_convolution_is_one_with_a_kernel_of_each_image_s_own(size: int, demodulate: bool) -> None:
    """Eqs. 1 and 3 as they stand: w'_ijk = s_i w_ijk, w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2)."""
    torch.manual_seed(0)
    layer = Modulated(5, 7, size, 4, demodulate)
    values, styles = torch.randn(3, 5, 6, 6), torch.randn(3, 4)
    for image, style, found in zip(values, styles, layer(values, styles), strict=True):
        weight = layer.weight * layer.scale * layer.style(style[None])[0][None, :, None, None]
        if demodulate:
            weight = weight / weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        torch.testing.assert_close(found, functional.conv2d(image[None], weight, padding=size // 2)[0])


@pytest.mark.parametrize("double", [False, True])
def test_demodulated_values_have_about_unit_deviation_whatever_the_style(double: bool) -> None:
    torch.manual_seed(0)
    layer = Modulated(64, 64, 3, 4, double=double)
    values = functional.interpolate(torch.randn(4, 64, 4, 4), size=(16, 16), mode="bicubic")
    values = values / values.std()
    deviation = layer(values, 10 * torch.randn(4, 4))[..., 2:-2, 2:-2].std().item()
    assert 0.5 < deviation < 2.5  # smooth values add up; without demodulation it is above 10


def test_the_filter_keeps_what_is_flat_and_both_ways_of_doubling_agree() -> None:
    flat = torch.ones(1, 3, 8, 8)
    torch.testing.assert_close(filtered(flat, 1, stride=2)[..., 1:-1, 1:-1], flat[..., 1:3, 1:3])
    image = torch.randn(1, 3, 8, 8)
    spread = torch.zeros(1, 3, 16, 16)
    spread[..., ::2, ::2] = image
    by_filter = filtered(functional.pad(spread, (1, 1, 1, 1)), 1, gain=4.0)[..., :16, :16]
    torch.testing.assert_close(by_filter[..., 2:-2, 2:-2], doubled(image)[..., 2:-2, 2:-2])


def test_weights_are_as_large_as_their_fan_in_asks_when_they_are_used() -> None:
    torch.manual_seed(0)
    for rate in (1.0, 0.01):
        layer = EqualisedLinear(400, 300, rate=rate)
        assert layer(torch.randn(200, 400)).std().item() == pytest.approx(1.0, rel=0.03)
        assert layer.weight.std().item() == pytest.approx(1 / rate, rel=0.01)
    torch.testing.assert_close(unit_length(torch.randn(5, 9)).square().mean(dim=1), torch.ones(5))


def test_the_plane_of_deviation_is_that_of_the_batch_and_in_evaluation_its_running_mean() -> None:
    layer = MinibatchDeviation()
    values = torch.randn(6, 3, 4, 4)
    expected = values.std(dim=0, correction=0).mean()
    plane = layer(values)[:, 3]
    torch.testing.assert_close(plane, expected.expand(6, 4, 4))
    torch.testing.assert_close(layer.running, 0.9 + 0.1 * expected)
    layer.eval()
    torch.testing.assert_close(layer(values[:1])[:, 3], layer.running.expand(1, 4, 4))


def test_the_same_image_over_and_over_has_finite_gradients() -> None:
    critic = build("style-critic", ImageShape(1, 8, 8)).train()
    images = torch.zeros(4, 1, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(images).sum(), images)
    assert torch.isfinite(slope).all()


def test_every_layer_hears_its_own_style_and_its_own_noise() -> None:
    network = generator().eval()
    assert isinstance(network, WithStyles)
    with torch.no_grad():
        styles = network.styled(*inputs(network, 1))[:, None].repeat(1, network.styles, 1)
        noise = [torch.randn(1, *shape) for shape in network.noise_shapes]
        image = network.synthesise(styles, noise)
        for number in range(network.styles):
            other = styles.clone()
            other[:, number] += 1
            assert not torch.allclose(network.synthesise(other, noise), image, atol=1e-4), number
        for number in range(len(noise)):
            others = [-one if place == number else one for place, one in enumerate(noise)]
            assert not torch.allclose(network.synthesise(styles, others), image, atol=1e-4), number


def test_noise_is_fresh_in_training_and_constant_in_evaluation() -> None:
    network, given = generator(), inputs(generator(), 2)
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(*given), network(*given))
        network.eval()
        assert torch.equal(network(*given), network(*given))


def test_without_noise_a_style_says_everything() -> None:
    network = build("style-generator", ImageShape(1, 8, 8), noise=False)
    assert isinstance(network, Generator) and network.noise_shapes == []
    assert not [name for name in network.state_dict() if "noise" in name or "strength" in name]
    styles = network.eval().styled(*inputs(network, 2))[:, None].expand(-1, network.styles, -1)
    torch.testing.assert_close(network.train().synthesise(styles), network.eval().synthesise(styles))


def test_the_mean_style_is_that_of_training() -> None:
    network = generator().train()
    latents = torch.randn(400, network.port.latent_size)
    with torch.no_grad():
        for _ in range(1500):
            styles = network.styled(latents[:40])
    torch.testing.assert_close(network.style_mean, styles.mean(dim=0), atol=2e-3, rtol=1e-2)
    before = network.style_mean.clone()
    network.eval().styled(latents)
    assert torch.equal(network.style_mean, before)


@pytest.mark.parametrize("classes", [0, 3])
def test_layers_get_styles_less_their_mean_from_the_start(classes: int) -> None:
    """So what leads from styles to scales carries nothing that all images share: the mean style is told nothing."""
    torch.manual_seed(0)
    settings = GeneratorSettings(width=16, widest=64, style_size=64, mapping_layers=2)
    network = Generator(
        settings, Port("latent_to_image", ImageShape(1, 16, 16), latent_size=32, classes=classes)
    ).eval()
    with torch.no_grad():
        labels = torch.arange(400) % classes if classes else None
        styles = network.styled(torch.randn(400, 32), labels)
        shared = styles.mean(dim=0).square().sum() / styles.square().sum(dim=1).mean()
        assert shared > 0.2  # of the power of styles, which end in a rectifier
        left = (styles - network.style_mean).mean(dim=0).square().sum() / styles.square().sum(dim=1).mean()
        assert left < 0.01
        mean = network.style_mean.expand(1, network.styles, -1)
        before = network.synthesise(mean)
        for layer in network.modules():
            if isinstance(layer, Modulated):
                layer.style.weight.mul_(-3.0)
        torch.testing.assert_close(network.synthesise(mean), before)


def test_images_begin_with_about_the_spread_of_real_ones() -> None:
    torch.manual_seed(0)
    network = Generator(GeneratorSettings(), Port("latent_to_image", ImageShape(1, 28, 28), latent_size=128)).eval()
    with torch.no_grad():
        assert 0.2 < network(torch.randn(50, 128)).std().item() < 1.0  # of images in [-1, 1]: at most 1


@pytest.mark.parametrize(("size", "smallest"), [(8, 4), (28, 7), (32, 4), (44, 11), (64, 4)])
def test_it_begins_at_the_smallest_size_and_doubles(size: int, smallest: int) -> None:
    network = generator(size)
    sides = [shape[1] for shape in network.noise_shapes]
    assert sides[0] == smallest and sides[-1] == size
    assert len(sides) == 1 + 2 * round(math.log2(size / smallest)) == network.styles - 1


def test_a_start_that_the_style_says_has_nothing_in_common_and_a_constant_is_common_to_all() -> None:
    """A constant leaves all that tells images apart to scales of its channels; the other way images differ at once."""
    torch.manual_seed(0)
    image = ImageShape(1, 16, 16)
    common = {}
    for start in ("constant", "style"):
        network = build("style-generator", image, start=start, noise=False)
        assert isinstance(network, Generator)
        with torch.no_grad():
            styles = network.styled(*inputs(network, 400)) - network.style_mean
            begun = network.start(styles).flatten(1)
        common[start] = (begun.mean(dim=0).square().sum() / begun.square().sum(dim=1).mean()).item()
    assert common["constant"] == pytest.approx(1.0)
    assert common["style"] < 0.1


@pytest.mark.parametrize("start", ["constant", "style"])
def test_latents_reach_the_images_and_images_teach_the_mapping(start: str) -> None:
    network = build("style-generator", ImageShape(1, 16, 16), start=start, noise=False)
    images = network(*inputs(network, 8))
    assert images.var(dim=0).mean() > 0.05 * images.square().mean()
    images.square().mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name
