"""What makes a network autoregressive: a value hangs on those before it, on all of them, and on no other; and over all
images its probabilities sum to one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from genforge.catalog import NETWORKS, build_network, target
from genforge.contracts import ImageShape, Port
from genforge.networks.autoregressive import AutoregressiveNetwork, to_levels, to_values
from genforge.networks.pixel_heads import Categorical, LogisticMixture, drawn
from tests.networks.network_cases import SMALL

ALL = sorted(name for name in NETWORKS if target("network", name).kind == "autoregressive")
HEADS: list[dict[str, Any]] = [{"head": "categorical"}, {"head": "logistic-mixture"}]


def network(name: str, image: ImageShape, classes: int = 0, **settings: Any) -> AutoregressiveNetwork:
    """With weights so large that what hangs on anything shows it, in double precision."""
    torch.manual_seed(0)
    port = Port("autoregressive", image, classes=classes)
    built = build_network({"name": name, **SMALL[name], **settings}, port, "test")
    assert isinstance(built, AutoregressiveNetwork)
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return built.double().eval().requires_grad_(False)


def every_image(image: ImageShape, bits: int) -> Tensor:
    """All images there are: ((2^bits)^size, c, h, w)."""
    levels = torch.tensor(list(itertools.product(range(2**bits), repeat=image.size)))
    return to_values(levels, bits).unflatten(1, (image.channels, image.height, image.width)).double()


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_a_value_hangs_on_all_values_before_it_and_on_no_other(name: str, channels: int, head: dict[str, Any]) -> None:
    """Every value is perturbed in turn, and every value's probability looked at. No pixel before is out of sight, not
    even at the upper right, where a single stack of masked convolutions is blind."""
    image = ImageShape(channels, 4, 5)
    layers = {"layers": 8} if name == "pixelcnn" else {}
    model = network(name, image, **head, **layers)
    levels = torch.randint(40, 200, (1, channels, 4, 5), generator=torch.Generator().manual_seed(3))
    order = levels.new_zeros(channels, 4, 5)  # of each value: when it is drawn
    for number, (row, column, channel) in enumerate(itertools.product(range(4), range(5), range(channels))):
        order[channel, row, column] = number
    base = model(to_values(levels, 8).double())[0]
    for place in itertools.product(range(channels), range(4), range(5)):
        other = levels.clone()
        other[0][place] += 37
        changed = model(to_values(other, 8).double())[0] != base
        before, after = order < order[place], order > order[place]
        assert not changed[before].any(), place
        assert changed[place], place
        assert changed[after].all(), place


@pytest.mark.parametrize(
    ("image", "bits", "head"),
    [
        (ImageShape(1, 2, 2), 1, {}),
        (ImageShape(1, 2, 2), 2, {"head": "logistic-mixture"}),
        (ImageShape(3, 1, 2), 2, {"head": "logistic-mixture"}),
        (ImageShape(3, 1, 2), 1, {}),
        (ImageShape(1, 2, 3), 2, {"head": "categorical"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ALL)
def test_the_probabilities_of_all_images_sum_to_one(name: str, image: ImageShape, bits: int, head: dict) -> None:
    model = network(name, image, bits=bits, **head)
    total = model(every_image(image, bits)).flatten(1).sum(1).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [Categorical, LogisticMixture])
def test_the_probabilities_of_a_value_s_levels_sum_to_one(kind: type, channels: int) -> None:
    """At 256 levels, of each channel given those before it, for sharp and for flat distributions."""
    torch.manual_seed(0)
    head = kind(6, channels, 256) if kind is Categorical else kind(6, channels, 256, 4)
    head = head.double()
    for scale in (0.1, 3.0, 30.0):
        features = scale * torch.randn(5, 6, dtype=torch.float64)
        before = torch.randint(256, (5, channels))
        for channel in range(channels):
            levels = before[:, None].repeat(1, 256, 1)  # (5, 256, channels)
            levels[..., channel] = torch.arange(256)
            found = head.log_probabilities(features[:, None].expand(-1, 256, -1), levels)[..., channel]
            torch.testing.assert_close(found.exp().sum(1), torch.ones(5, dtype=torch.float64), atol=1e-9, rtol=0)


def test_a_logistic_keeps_its_digits_far_out_in_its_tail() -> None:
    """Against the difference of distribution functions where that has digits; beyond, against the tail's slope."""
    head = LogisticMixture(1, 1, 256, 1)
    with torch.no_grad():
        head.parts.weight.zero_()
        head.parts.bias.copy_(torch.tensor([0.0, 0.0, -3.0]))
    found = head.log_probabilities(torch.zeros(256, 1), torch.arange(256)[:, None]).squeeze(-1)
    values, scale = to_values(torch.arange(256), 8).double(), torch.tensor(-3.0).double().exp()
    edges = torch.cat([torch.tensor([-torch.inf]), values[1:] - 1 / 255, torch.tensor([torch.inf])]).double()
    plain = (edges / scale).sigmoid().diff()
    torch.testing.assert_close(found.double(), plain.log(), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        head.parts.bias[2] = -6.9
    sharp = head.log_probabilities(torch.zeros(2, 1), torch.tensor([[2], [3]])).squeeze(-1)
    slope = 2 / 255 * torch.tensor(6.9).exp()
    assert sharp[0].item() < -900.0  # float32 has no such number; its logarithm it has
    torch.testing.assert_close(sharp[1] - sharp[0], slope, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("head", [*HEADS, {"bits": 3}], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_the_walk_sees_what_the_whole_image_shows(name: str, channels: int, head: dict[str, Any]) -> None:
    """With a cache as without: features pixel by pixel equal those of one pass over the image."""
    image = ImageShape(channels, 6, 5)
    model = network(name, image, classes=3, **head)
    values = 2 * torch.rand(4, channels, 6, 5, dtype=torch.float64) - 1
    labels = torch.arange(4) % 3
    walk = model.walk(4, labels)
    seen = [next(walk)]
    seen += [walk.send(value) for value in values.flatten(2).unbind(2)[:-1]]
    torch.testing.assert_close(torch.stack(seen, 1), model.features(values, labels).flatten(1, 2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_their_own_values_and_the_upper_bits_of_pixels(bits: int) -> None:
    levels = torch.arange(2**bits)
    assert torch.equal(to_levels(to_values(levels, bits), bits), levels)
    pixels = torch.arange(256)
    assert torch.equal(to_levels(to_values(pixels, 8), bits), pixels >> (8 - bits))


def test_noise_falls_to_choices_in_proportion() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64).log()
    noise = (torch.arange(1000) + 0.5) / 1000
    counts = drawn(logits.expand(1000, 3), noise).bincount()
    assert counts.tolist() == [100, 200, 700]
