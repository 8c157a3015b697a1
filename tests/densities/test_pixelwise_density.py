"""The likelihood of images under an autoregressive network is exact: over all images it sums to one."""

from __future__ import annotations

import pytest
import torch

from genforge.catalog import build_density
from genforge.contracts import EIGHT_BIT, Draw, ImageShape
from tests.networks.test_autoregressive import ALL, every_image, network


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_the_probabilities_of_all_images_sum_to_one(name: str, channels: int) -> None:
    image = ImageShape(channels, 2, 2)
    model, images = network(name, image, bits=1), every_image(image, 1)
    told = build_density({"name": "pixelwise"}).log_likelihood({"network": model}, images, draw(len(images)))
    assert told.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    assert told.std() > 0.1


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_it_says_of_what_it_tells_and_is_told_no_finer_levels(bits: int) -> None:
    density, model = build_density({"name": "pixelwise"}), network("pixelcnn", ImageShape(1, 4, 4), bits=bits)
    assert (density.of({"network": model}) == EIGHT_BIT) == (bits == 8)
    pixels = torch.randint(256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    coarse = pixels >> (8 - bits) << (8 - bits)
    first, second = (
        density.log_likelihood({"network": model}, given / 127.5 - 1.0, draw(3))
        for given in (pixels.double(), coarse.double())
    )
    torch.testing.assert_close(first, second)


def draw(count: int) -> Draw:
    return Draw(0, torch.arange(count))
