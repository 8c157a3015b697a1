"""Bits per dimension: their mean, their error, what they are of, and what they are not compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genforge import randomness
from genforge.contracts import Density, Draw, Network
from genforge.evaluation import leaderboard
from genforge.evaluation.likelihood import Likelihood, require_comparable
from genforge.evaluation.log_likelihood import measure
from genforge.evaluation.protocol import ProtocolMismatch
from genforge.settings import Settings
from tests.evaluation.test_leaderboard import RESULTS


class Uniform(Density):
    """Every image of d values has probability 256^-d; or less, by noise."""

    kinds = ("latent_to_image",)
    settings_type = Settings
    exact, how = True, "exact"

    def __init__(self, noise: float = 0.0, kind: str = "8-bit images") -> None:
        self.noise, self.kind = noise, kind

    def of(self, networks: Mapping[str, Network]) -> str:
        return self.kind

    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        drawn = randomness.normal(draw.seed, draw.indices, (1,)).flatten()
        return -images[0].numel() * math.log(256) + self.noise * drawn


IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)


def told(density: Density | None = None, images: np.ndarray = IMAGES, **more: Any) -> Likelihood:
    return measure(density or Uniform(), {}, images, **{"labels": None, "seed": 0, **more})


def test_noise_that_knows_nothing_costs_eight_bits() -> None:
    found = told()
    assert found.bits == pytest.approx(8.0) and found.bits_error == pytest.approx(0.0, abs=1e-12)
    assert found.nats == pytest.approx(-16 * math.log(256))
    assert Likelihood.from_json(found.to_json()) == found


def test_the_error_is_that_of_the_mean_over_images_at_any_batch_size() -> None:
    found = told(Uniform(noise=2.0), batch_size=7)
    drawn = 2.0 * randomness.normal(0, torch.arange(50), (1,)).double()
    assert found.nats == pytest.approx(-16 * math.log(256) + drawn.mean().item(), abs=1e-4)
    assert found.nats_error == pytest.approx(drawn.std().item() / 50**0.5, rel=1e-4)
    assert found.bits_error == pytest.approx(found.nats_error / (16 * math.log(2)))


def test_what_is_not_finite_is_told_with_the_image() -> None:
    with pytest.raises(ValueError, match=r"50 of 50 images is not finite, first of image 0: nan"):
        told(Uniform(noise=float("nan")))


def test_likelihoods_of_other_images_are_refused_and_of_another_kind_stand_apart() -> None:
    with pytest.raises(ProtocolMismatch, match=r"of gan and vae are of different images.*\n  digest: "):
        require_comparable([("gan", told()), ("vae", told(images=255 - IMAGES))])
    with pytest.raises(ProtocolMismatch, match="images: 50 against 40"):
        require_comparable([("gan", told()), ("vae", told(images=IMAGES[:40]))])
    require_comparable([("gan", told()), ("vae", told(Uniform(kind="binarised images"), 255 - IMAGES))])
    conditional = told(labels=np.zeros(50, np.int64))
    assert conditional.protocol.of == "8-bit images, given their classes"
    require_comparable([("gan", told()), ("vae", conditional)])


def row(name: str, found: Likelihood) -> dict[str, Any]:
    (result,) = (result for result in RESULTS if result["name"] == name)
    return {**result, "likelihood": found.to_json()}


def test_the_leaderboard_has_a_column_of_them_where_some_model_has_one() -> None:
    others = [result for result in RESULTS if result["name"] not in ("gaussian", "vae")]
    bound = Uniform(kind="binarised images")
    bound.exact, bound.how = False, "importance-weighted bound"
    board = leaderboard.build([*others, row("gaussian", told()), row("vae", told(bound))], "fid")
    text = leaderboard.markdown(board)
    assert "| bits/dim ↓ |" in text
    assert "**8.000 ± 0.000**" in text and "≤ 8.000 ± 0.000 (binarised images)" in text
    assert "Bits/dim of vae: importance-weighted bound; -88.72 nats an image" in text
    heading, *cells = [line.rpartition(",")[2] for line in leaderboard.comma_separated(board).splitlines()]
    assert heading == "bits_per_dimension"
    assert [bool(cell) for cell in cells] == [found["name"] == "gaussian" for found in board["rows"]]
    assert "bits/dim" not in leaderboard.markdown(leaderboard.build(RESULTS, "fid"))
    with pytest.raises(ProtocolMismatch):
        leaderboard.build([*others, row("gaussian", told()), row("vae", told(images=255 - IMAGES))], "fid")
