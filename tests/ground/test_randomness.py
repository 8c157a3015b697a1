"""Philox against its published answers, and noise that depends on nothing but its names."""

from __future__ import annotations

import pytest
import torch

from genforge.randomness import derive, normal, philox, quick_uniform, uniform

FULL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # known answers of Random123 1.09, kat_vectors, philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer) -> None:
    words = philox(tuple(torch.tensor([word]) for word in counter), key)  # type: ignore[arg-type]
    assert tuple(int(word) for word in words) == answer


def test_quick_noise_is_uniform_and_neither_end_is_reached() -> None:
    torch.manual_seed(0)
    noise = quick_uniform((65_537, 4), "cpu")
    assert noise.min() > 0 and noise.max() < 1
    expected = noise.numel() / 64
    squared = (torch.histc(noise, 64, 0, 1) - expected).square().sum() / expected
    assert 25 < squared < 120, "chi-squared with 63 degrees of freedom: 63 +- 11"
    correlations = torch.corrcoef(noise.T)  # of the four that one number gives
    assert (correlations - torch.eye(4)).abs().max() < 0.02


def test_quick_noise_goes_on_from_where_torch_s_generator_stands() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = quick_uniform((5, 7), "cpu")
    assert not torch.equal(quick_uniform((5, 7), "cpu"), first)
    torch.set_rng_state(state)
    assert torch.equal(quick_uniform((5, 7), "cpu"), first)


@pytest.mark.parametrize("draw", [normal, uniform])
def test_noise_of_an_image_is_the_same_in_any_batch_and_order(draw) -> None:
    whole = draw(7, torch.arange(100), (3, 5, 5))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(7, order, (3, 5, 5)), whole[order])
    assert torch.equal(torch.cat([draw(7, part, (3, 5, 5)) for part in torch.arange(100).split(7)]), whole)


def test_seeds_streams_and_large_indices_give_other_noise() -> None:
    indices = torch.tensor([0, 1, 2**32, 2**32 + 1])
    draws = [normal(seed, indices, (64,), stream) for seed in (0, 1, 2**40) for stream in (0, 1)]
    rows = torch.cat(draws)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_normal_noise_has_the_moments_and_tails_of_the_normal_distribution() -> None:
    noise = normal(3, torch.arange(2000), (500,)).double().flatten()
    count = len(noise)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = 5 * (variance / count) ** 0.5  # five standard errors of the sample moment
        assert abs(noise.pow(power).mean() - moment) < error
    share = (noise.abs() > 1.959964).double().mean()
    assert abs(share - 0.05) < 5 * (0.05 * 0.95 / count) ** 0.5
    neighbours = normal(3, torch.arange(2000), (500,)).double()
    assert abs((neighbours[:, :-1] * neighbours[:, 1:]).mean()) < 5 / count**0.5
    assert abs((neighbours[:-1] * neighbours[1:]).mean()) < 5 / count**0.5


def test_uniform_noise_is_open_and_even() -> None:
    noise = uniform(1, torch.arange(1000), (400,)).double().flatten()
    assert noise.min() > 0 and noise.max() < 1
    counts = torch.histc(noise, bins=20, min=0, max=1)
    expected = len(noise) / 20
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 43.8  # 0.999 quantile with 19 degrees of freedom


def test_derived_seeds_differ_by_every_name() -> None:
    seeds = {
        derive(0),
        derive(1),
        derive(0, "train"),
        derive(0, "train", "gan"),
        derive(0, "train", "vae"),
        derive(0, 1),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
