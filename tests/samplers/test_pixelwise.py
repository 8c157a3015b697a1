"""Drawing pixel by pixel: from the distribution that the network states, at any batch size, after any beginning."""

from __future__ import annotations

import pytest
import torch

from genforge.catalog import build_sampler
from genforge.contracts import Draw, ImageShape
from genforge.networks.autoregressive import to_levels
from genforge.samplers.pixelwise import Pixelwise
from genforge.settings import UserError
from tests.networks.test_autoregressive import ALL, every_image, network


def sampler(**settings: object) -> Pixelwise:
    built = build_sampler({"name": "pixelwise", **settings})
    assert isinstance(built, Pixelwise)
    return built


@pytest.mark.parametrize(
    ("image", "settings"),
    [
        (ImageShape(1, 2, 2), {"bits": 2, "head": "logistic-mixture"}),
        (ImageShape(1, 2, 2), {"bits": 2, "head": "categorical"}),
        (ImageShape(3, 1, 1), {"bits": 2, "head": "logistic-mixture"}),
        (ImageShape(3, 1, 1), {"bits": 2, "head": "categorical"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ALL)
def test_images_are_drawn_as_often_as_they_are_probable(name: str, image: ImageShape, settings: dict) -> None:
    """Of all images there are, by the chi-squared statistic over those expected five times or more."""
    model, count = network(name, image, **settings), 4000
    probabilities = model(every_image(image, 2)).flatten(1).sum(1).exp()
    drawn = to_levels(sampler(together=count).sample(model, Draw(1, torch.arange(count))), 2).flatten(1)
    numbers = (drawn * 4 ** torch.arange(image.size - 1, -1, -1)).sum(1)
    counts, expected = numbers.bincount(minlength=len(probabilities)), count * probabilities
    often = expected >= 5
    statistic = ((counts - expected).square() / expected)[often].sum().item()
    freedom = int(often.sum())
    assert freedom > 10
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_the_same_to_the_bit_at_any_batch_size_and_in_any_company(name: str) -> None:
    model, image_numbers = network(name, ImageShape(3, 6, 6), classes=3), torch.arange(9)
    draw = Draw(7, image_numbers, image_numbers % 3)
    whole = sampler().sample(model.float(), draw)
    for size in (1, 4):
        assert torch.equal(torch.cat([sampler().sample(model, part) for part in draw.split(size)]), whole)
        assert torch.equal(sampler(together=size).sample(model, draw), whole)
    assert not torch.equal(sampler().sample(model, Draw(7, image_numbers, (image_numbers + 1) % 3)), whole)


@pytest.mark.parametrize("name", ALL)
def test_what_is_given_stays_and_the_rest_follows_from_it(name: str) -> None:
    model, draw = network(name, ImageShape(1, 6, 5)), Draw(2, torch.arange(3))
    free = sampler().sample(model, draw)
    torch.testing.assert_close(sampler().complete(model, draw, free, 3), free)  # its own beginning, its own noise
    half = sampler().complete(model, draw, -free, 3)
    torch.testing.assert_close(half[:, :, :3], -free[:, :, :3])
    assert not torch.equal(half[:, :, 3:], free[:, :, 3:])
    with pytest.raises(UserError, match="3 rows of pictures"):
        sampler().complete(model, draw, free[:2], 3)


def test_a_low_temperature_draws_what_is_likeliest() -> None:
    model, draw = network("pixelcnn", ImageShape(1, 4, 4), bits=3, head="categorical"), Draw(0, torch.arange(200))
    likely = [model(sampler(temperature=t).sample(model, draw).double()).sum().item() for t in (2.0, 1.0, 0.5, 0.01)]
    assert likely == sorted(likely)
    cold = sampler(temperature=1e-6).sample(model, draw)
    assert (cold == cold[:1]).all()


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        sampler().sample(network("pixelcnn", ImageShape(1, 4, 4)).train(), Draw(0, torch.arange(2)))
