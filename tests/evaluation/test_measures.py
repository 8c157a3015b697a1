"""Each metric against a closed form, or against a published implementation that is written out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genforge.contracts import ImageShape, Network, Port
from genforge.evaluation.measures import frechet, neighbours
from genforge.evaluation.metric import Evidence, LatentEvidence
from genforge.evaluation.metrics import METRICS
from genforge.evaluation.reference import SEED, Reference
from genforge.samplers.interpolation import along
from genforge.settings import Settings, UserError
from genforge.torchvision_cure import import_torchvision

Make = Callable[..., Any]


def number(name: str, generated: np.ndarray, real: np.ndarray, logits: np.ndarray | None = None) -> float:
    evidence = Evidence(generated, logits, real, Reference.of(real).prepared, SEED)
    return METRICS[name].compute(evidence, **METRICS[name].settings(len(generated), len(real)))


def normal(count: int, dimensions: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (np.random.RandomState(seed).normal(shift, scale, (count, dimensions))).astype(np.float32)


def theirs(generated: np.ndarray, real: np.ndarray) -> float:
    """torch-fidelity's Frechet distance."""
    import_torchvision()
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    moments = [fid_features_to_statistics(torch.from_numpy(features)) for features in (generated, real)]
    return fid_statistics_to_metric(*moments, verbose=False)[KEY_METRIC_FID]


@pytest.mark.parametrize(("images", "real_images"), [(400, 300), (60, 300), (400, 60), (60, 60)])
@pytest.mark.parametrize("dead", [0, 9])
def test_frechet_distance_is_torch_fidelitys_also_where_covariances_are_singular(
    images: int, real_images: int, dead: int
) -> None:
    mixing = normal(100, 100, 0)
    generated = np.maximum(normal(images, 100, 1, 1.2) @ mixing, 0.0) + 0.5
    real = np.maximum(normal(real_images, 100, 2) @ mixing, 0.0)
    generated[:, :dead] = real[:, :dead] = 0.25
    assert number("fid", generated, real) == pytest.approx(theirs(generated, real), rel=1e-6)


def test_root_of_a_singular_covariance_is_lower_triangular_and_a_root() -> None:
    features = normal(30, 50, 0).astype(np.float64)
    covariance = np.cov(features, rowvar=False)
    root = frechet.root_of(covariance)
    assert np.array_equal(root, np.tril(root))
    assert root @ root.T == pytest.approx(covariance, abs=1e-12)


def test_both_ways_to_the_frechet_distance_meet_where_images_are_as_many_as_dimensions() -> None:
    generated, real = normal(64, 64, 0, 1.5), normal(500, 64, 1)
    mean, covariance = frechet.moments(real)
    root = frechet.root_of(covariance)
    few = frechet.frechet_distance_of_few(generated, mean, root)
    assert few == pytest.approx(frechet.frechet_distance(*frechet.moments(generated), mean, root), rel=1e-6)


def prdc(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """Naeem et al. 2020, written as their published `prdc` computes it."""
    from sklearn.metrics import pairwise_distances

    real_radii = np.sort(pairwise_distances(real), axis=1)[:, k]
    fake_radii = np.sort(pairwise_distances(fake), axis=1)[:, k]
    between = pairwise_distances(real, fake)
    return {
        "precision": (between < real_radii[:, None]).any(axis=0).mean(),
        "recall": (between < fake_radii[None, :]).any(axis=1).mean(),
        "density": (between < real_radii[:, None]).sum(axis=0).mean() / k,
        "coverage": (between.min(axis=1) < real_radii).mean(),
    }


@pytest.mark.parametrize("block", [neighbours.BLOCK, 1000])
def test_neighbourhoods_are_as_published_whatever_the_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    real, fake = normal(300, 8, 0), normal(200, 8, 1, scale=0.5, shift=0.6)
    for k, names in ((3, ("precision", "recall")), (5, ("density", "coverage"))):
        published = prdc(real, fake, k)
        for name in names:
            assert number(name, fake, real) == pytest.approx(published[name], abs=1e-9), name


def test_density_and_coverage_of_real_images_have_their_expectations() -> None:
    """Naeem et al. 2020, lemmas 1 and 2: 1, and 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)), in any distribution."""
    k, count = 5, 400
    found = {"density": [], "coverage": []}
    for seed in range(10):
        real, fake = normal(count, 32, 2 * seed), normal(count, 32, 2 * seed + 1)
        for name, values in found.items():
            values.append(number(name, fake, real))
    expected = 1 - math.prod((count - i) / (2 * count - i) for i in range(1, k + 1))
    assert expected == pytest.approx(1 - 0.5**k, abs=0.01)
    assert np.mean(found["density"]) == pytest.approx(1.0, abs=4 * np.std(found["density"]) / 3)
    assert np.mean(found["coverage"]) == pytest.approx(expected, abs=0.01)


def test_one_table_of_distances_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real, fake = normal(300, 8, 0), normal(200, 8, 1)
    prepared, blocks = Reference.of(real).prepared, neighbours.blocks
    monkeypatch.setattr(neighbours, "blocks", lambda first, second: calls.append(len(second)) or blocks(first, second))
    evidence = Evidence(fake, None, real, prepared, SEED)
    for name in ("precision", "recall", "density", "coverage", "duplicates"):
        METRICS[name].compute(evidence, **METRICS[name].settings(200, 300))
    assert calls == [200, 300]  # among the generated, and to the real ones


def test_mind_of_isotropic_normals_has_its_closed_form() -> None:
    """Along every direction N(0, a^2) and N(m, b^2): squared Wasserstein distance m^2 + (a - b)^2."""
    generated, real = normal(20_000, 16, 0, scale=2.0), normal(20_000, 16, 1, scale=3.0)
    assert number("mind", generated, real) == pytest.approx(3 * 16 * 1.0, rel=0.03)
    moved = generated + np.float32(5.0) * np.eye(16, dtype=np.float32)[0]
    assert number("mind", moved, generated) == pytest.approx(3 * 25.0, rel=0.15)  # of 1000 random directions
    assert number("mind", generated, generated) == 0.0


def test_mind_takes_as_many_of_either_kind() -> None:
    few, many = normal(500, 16, 0), normal(5000, 16, 1)
    assert METRICS["mind"].settings(500, 5000) == {"projections": 1000, "each": 500}
    assert number("mind", few, many) == pytest.approx(number("mind", few, many[:500]), rel=0.5)


def test_classes_are_counted_as_they_are_named() -> None:
    logits = np.full((60, 10), -1.0, np.float32)
    logits[np.arange(60), np.arange(60) % 4] = 1.0
    features = normal(60, 4, 0)
    assert number("classes", features, features, logits) == 4.0


def test_duplicates_are_found_and_varied_images_are_not() -> None:
    real, fake = normal(1000, 16, 0), normal(400, 16, 1)
    assert number("duplicates", fake, real) <= 0.01
    copied = fake.copy()
    copied[:100] = fake[200:300]  # 100 images there twice are 200 images with a twin
    assert number("duplicates", copied, real) == pytest.approx(0.5, abs=0.01)
    assert number("duplicates", np.repeat(fake[:1], 400, axis=0), real) == 1.0


def test_exact_duplicates_are_found_far_from_the_origin_and_among_real_copies() -> None:
    """Where real images are there twice, the limit is 0, and rounding must not hide copies."""
    real, fake = np.repeat(normal(300, 64, 0, shift=1000.0), 2, axis=0), normal(200, 64, 1, shift=1000.0)
    fake[:50] = fake[100:150]
    assert number("duplicates", fake, real) == 0.5


def test_feature_diversity_is_the_mean_over_all_pairs() -> None:
    from sklearn.metrics import pairwise_distances

    rows = normal(50, 8, 0)
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    apart = pairwise_distances(unit) ** 2
    expected = apart[~np.eye(50, dtype=bool)].mean()
    assert number("feature_diversity", rows, rows) == pytest.approx(expected, rel=1e-5)
    assert number("feature_diversity", np.repeat(rows[:1], 50, axis=0), rows) == pytest.approx(0.0, abs=1e-9)


class Plain(Network):
    """The latent is the image."""

    kind = "latent_to_image"
    settings_type = Settings

    def __init__(self, latent_size: int, steep: float = 1.0) -> None:
        super().__init__(Settings(), Port("latent_to_image", ImageShape(1, 1, latent_size), latent_size))
        self.steep = steep

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        turned = latent if self.steep == 1.0 else torch.sin(self.steep * latent)
        return turned[:, None, None, :]


def length(network: Network, pairs: int = 2000) -> float:
    evidence = LatentEvidence(network, lambda images: images.flatten(1), None, "cpu", seed=0)
    return METRICS["path_length"].compute(evidence, pairs=pairs, step=1e-4)


def test_path_length_of_a_plane_has_its_closed_form() -> None:
    """Features turn evenly by the angle between two latents, which is uniform in [0, pi]; the highest and lowest 1% of
    its squares are left out."""
    expected = math.pi**2 * (0.99**3 - 0.01**3) / (3 * 0.98)
    assert length(Plain(2), pairs=50_000) == pytest.approx(expected, rel=0.01)


def test_path_length_in_many_dimensions_is_of_right_angles() -> None:
    assert length(Plain(2000)) == pytest.approx((math.pi / 2) ** 2, rel=0.01)


def test_a_generator_with_sudden_turns_has_a_longer_path() -> None:
    assert length(Plain(16, steep=20.0)) > 10 * length(Plain(16))


def test_the_way_between_two_latents_begins_and_ends_there() -> None:
    first, second = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    assert torch.allclose(along(first, second, torch.zeros(5, 1)), first)
    assert torch.allclose(along(first, second, torch.ones(5, 1)), second)


@pytest.mark.parametrize("names", [[], ["fids"]])
def test_an_empty_or_wrong_list_of_metrics_is_told(
    names: list[str], judge_of: Make, linear: Make, images_of: Make
) -> None:
    shape = ImageShape(1, 8, 8)
    judge = judge_of(linear(np.eye(64)[:, :12]), images_of(100, shape))
    with pytest.raises(UserError, match=r"the list is empty; name metrics \(fid, kid" if not names else "did you mean"):
        judge.score(images_of(60, shape), names)


def test_a_metric_of_a_latent_is_not_taken_from_images(judge_of: Make, linear: Make, images_of: Make) -> None:
    shape = ImageShape(1, 8, 8)
    judge = judge_of(linear(np.eye(64)[:, :12]), images_of(100, shape))
    with pytest.raises(UserError, match="Path length needs the model"):
        judge.score(images_of(60, shape), ["path_length"])


def test_floats_that_are_not_finite_are_told(judge_of: Make, linear: Make, images_of: Make) -> None:
    shape = ImageShape(1, 8, 8)
    judge = judge_of(linear(np.eye(64)[:, :12]), images_of(100, shape))
    images = np.zeros((60, 8, 8, 1), np.float32)
    images[3, 2, 1] = np.inf
    with pytest.raises(UserError, match=r"float32, some not finite \(NaN or infinity\)"):
        judge.score(images)
