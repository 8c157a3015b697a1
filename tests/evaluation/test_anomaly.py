"""Scores of strangeness against what is known of them: ranks, exact probabilities, a density that is fooled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genforge.contracts import Density, Draw, ImageShape, Network, Port
from genforge.evaluation.anomaly import SCORES, Observer, auroc, compressed_bits, p_values
from genforge.settings import Settings, UserError
from tests.networks.network_cases import build

EIGHT = ImageShape(1, 8, 8)


def test_auroc_is_scikit_learn_s_with_ties_too() -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    strange, normal = random.integers(0, 9, 70).astype(float), random.integers(-2, 7, 50).astype(float)
    expected = roc_auc_score([1] * 70 + [0] * 50, np.concatenate([strange, normal]))
    assert auroc(strange, normal)[0] == pytest.approx(expected)
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, 0.0)


def test_auroc_s_standard_error_is_its_spread() -> None:
    """Over many draws of two normals that are one deviation apart, whose AUROC is Phi(1 / sqrt 2)."""
    random = np.random.default_rng(0)
    found = np.array([auroc(random.normal(1, 1, 60), random.normal(0, 1, 40)) for _ in range(1500)])
    truth = 0.5 * (1 + math.erf(0.5))
    assert found[:, 0].mean() == pytest.approx(truth, abs=0.005)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.05)


def test_p_values_of_what_is_normal_are_uniform_or_larger_and_never_zero() -> None:
    random = np.random.default_rng(0)
    p = p_values(random.normal(size=20_000), random.normal(size=2000))
    for level in (0.01, 0.1, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.02)
    assert p_values(np.array([100.0, -100.0, 1.0]), np.array([1.0, 2.0, 3.0])).tolist() == [0.25, 1.0, 1.0]


def test_shuffled_pixels_compress_worse_and_flat_images_best() -> None:
    random = np.random.default_rng(0)
    smooth = np.repeat((np.arange(16, dtype=np.uint8) ** 2)[None, :, None], 16, axis=0)
    shuffled = random.permutation(smooth.flatten()).reshape(smooth.shape)
    flat = np.full_like(smooth, 7)
    for channels in (1, 3):
        lengths = compressed_bits(np.stack([np.repeat(image, channels, 2) for image in (flat, smooth, shuffled)]))
        assert (np.diff(lengths) > 0).all() and (lengths % 8 == 0).all()


class Levels(Density):
    """Every value by itself: its probability falls with its level, so that an empty image is the likeliest; of a
    conditional model, all the faster the higher the label."""

    kinds, settings_type, exact, how = ("latent_to_image",), Settings, True, "by levels"

    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        rate = 0.01 if draw.labels is None else 0.01 * (1 + draw.labels)
        return -(images.add(1).mul(127.5).double() * 0.01).flatten(1).sum(1) * torch.as_tensor(rate) * 100


def observer(density: Density | None = None, **changes: Any) -> Observer:
    given = {"networks": {"network": build("gaussian", EIGHT).eval()}, "role": "network", "label_counts": (), **changes}
    return Observer("test", density=density, **given)


def pixels(level: int, spread: int, count: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(level - spread, level + spread + 1, (count, 8, 8, 1)).astype(np.uint8)


def test_a_likelihood_finds_simple_strangers_normal_and_the_other_scores_do_not() -> None:
    """What Nalisnick et al. 2019 report: images of another kind that are likelier than those that were learned."""
    training, normal, empty = pixels(100, 30), pixels(100, 30, seed=1), pixels(0, 0) + np.uint8(1)
    found = {}
    for name in ("likelihood", "complexity", "typicality"):
        score = SCORES[name](observer(Levels(Settings())))
        score.fit(training)
        found[name] = auroc(score.of(empty), score.of(normal))[0]
        assert score.how
    assert found == {"likelihood": 0.0, "complexity": 1.0, "typicality": 1.0}


def test_bits_are_those_of_the_density_at_any_number_of_images() -> None:
    images = pixels(100, 30, count=300)
    bits = SCORES["likelihood"](observer(Levels(Settings()))).of(images)
    np.testing.assert_allclose(bits, 0.01 * images.reshape(300, -1).mean(1) / math.log(2), rtol=1e-5)


def test_under_a_conditional_model_an_image_may_be_of_any_class() -> None:
    images, counts = pixels(1, 1), (3, 0, 1)
    bits = SCORES["likelihood"](observer(Levels(Settings()), label_counts=counts)).of(images)
    total = images.reshape(50, -1).sum(1)
    expected = 0.75 * np.exp(-0.01 * total) + 0.25 * np.exp(-0.03 * total)
    np.testing.assert_allclose(bits, -np.log2(expected) / 64, rtol=1e-5)


class Code(Network):
    """The first values of an image, as a code of four values and four more that an autoencoder has for variances."""

    kind, settings_type = "image_to_vector", Settings

    def __init__(self, settings: Settings, port: Port) -> None:
        super().__init__(settings, port)
        self.register_parameter("unused", nn.Parameter(torch.zeros(())))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return images.flatten(1)[:, :8]


class Decoder(Network):
    """A code at the beginning of an empty image."""

    kind, settings_type = "latent_to_image", Settings

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        assert latent.shape[1] == 4
        return nn.functional.pad(latent, (0, 60), value=-1.0).unflatten(1, (1, 8, 8))


def test_what_an_autoencoder_cannot_give_back_is_strange() -> None:
    networks = {
        "decoder": Decoder(Settings(), Port("latent_to_image", EIGHT, latent_size=4)),
        "encoder": Code(Settings(), Port("image_to_vector", EIGHT, outputs=8)),
    }
    score = SCORES["reconstruction"](observer(networks=networks, role="decoder"))
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[:, 0, :4] = 200
    images[1, 7, 7] = 255
    np.testing.assert_allclose(score.of(images), [0.0, 4 / 64], atol=1e-6)


def test_a_denoiser_gives_back_the_same_at_any_batch_size() -> None:
    score = SCORES["reconstruction"](
        observer(networks={"denoiser": build("edm-denoiser", EIGHT).eval()}, role="denoiser")
    )
    images = pixels(100, 90, count=260)
    whole = score.of(images)
    assert whole.shape == (260,) and (whole > 0).all()
    np.testing.assert_allclose(score.of(images[:3]), whole[:3], rtol=1e-4)


class Bowl(Decoder):
    def energy(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return images.square().flatten(1).sum(1)


def test_an_energy_is_the_network_s_own() -> None:
    network = Bowl(Settings(), Port("latent_to_image", EIGHT, latent_size=4))
    score = SCORES["energy"](observer(networks={"network": network}))
    np.testing.assert_allclose(score.of(np.full((2, 8, 8, 1), 255, np.uint8)), [64.0, 64.0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("likelihood", "names no density"),
        ("complexity", "names no density"),
        ("typicality", "names no density"),
        ("reconstruction", "neither an encoder nor a denoiser"),
        ("energy", "has no energy"),
    ],
)
def test_a_model_that_cannot_give_a_score_is_told(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        SCORES[name](observer())


def test_every_score_is_looked_at() -> None:
    assert set(SCORES) == {"likelihood", "complexity", "typicality", "reconstruction", "energy"}
