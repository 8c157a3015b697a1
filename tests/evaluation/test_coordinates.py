"""The judge of points: coordinates as they are, and modes that are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genforge.contracts import POINT, ImageShape
from genforge.data import points
from genforge.evaluation.coordinates import CoordinatesExtractor, fit_modes
from genforge.evaluation.extractor import load_extractor, write_card, write_weights
from genforge.evaluation.fidelity import Judge, check_images
from genforge.evaluation.reference import Reference
from genforge.settings import UserError

NAMES = ["fid", "mind", "precision", "recall", "modes"]


def stored(drawn: points.Points) -> np.ndarray:
    return drawn.points[:, None, None, :]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    folder: Path = tmp_path_factory.mktemp("extractor")
    real = points.draw("ring", 1000, None, seed=0)
    modes = fit_modes(stored(real), real.labels, 8)
    write_card(folder, CoordinatesExtractor(modes, write_weights(folder, modes)), {})
    extractor = load_extractor(folder)
    return Judge(extractor, POINT, Reference.of(extractor.features(stored(real)).features), "data")


def test_features_are_the_points_and_logits_are_distances_in_deviations(judge: Judge) -> None:
    drawn = points.draw("ring", 500, None, seed=1)
    seen = judge.extractor.features(stored(drawn))
    assert np.array_equal(seen.features, drawn.points)
    assert seen.logits is not None
    assert (seen.logits.argmax(axis=1) == drawn.labels).all()
    # Of a Gaussian in the plane, d^2 / 2 is exponential with mean 1.
    assert -seen.logits.max(axis=1).mean() == pytest.approx(1.0, abs=0.15)


def test_fid_is_the_closed_form_in_the_plane(judge: Judge) -> None:
    real = judge.reference.features.astype(np.float64)
    moved = (2 * real + 0.5).astype(np.float32)[:, None, None, :]
    expected = ((real.mean(axis=0) + 0.5) ** 2).sum() + np.trace(np.cov(real.T))  # of C and 4 C: tr(C + 4 C - 2 * 2 C)
    assert judge.score(moved, ["fid"])["fid"] == pytest.approx(expected, rel=1e-4)


def test_forgotten_modes_are_missed(judge: Judge) -> None:
    drawn = points.draw("ring", 800, None, seed=1)
    whole = judge.score(stored(drawn), NAMES)
    half = judge.score(stored(drawn)[drawn.labels < 4], NAMES)
    assert whole["modes"] == 1.0 and half["modes"] == 0.5
    assert half["recall"] < 0.6 < whole["recall"]
    assert half["mind"] > 10 * whole["mind"]
    middle = np.random.default_rng(0).normal(0, 0.1, (100, 1, 1, 2)).astype(np.float32)  # nearest to all, close to none
    assert judge.score(middle, NAMES)["modes"] == 0.0


def test_points_far_from_everything_can_be_judged(judge: Judge) -> None:
    far = np.random.default_rng(0).normal(0, 50, (100, 1, 1, 2)).astype(np.float32)
    found = judge.score(far)
    assert found["modes"] == 0.0 and 1.0 <= found["is"] <= 8.0


def test_a_gaussian_has_the_ring_s_fid_and_not_its_mind(judge: Judge) -> None:
    """Why points are ranked by MIND: FID sees two moments alone."""
    random = np.random.default_rng(0)
    covariance = np.cov(judge.reference.features.T)
    blind = random.multivariate_normal(judge.reference.features.mean(axis=0), covariance, 1000).astype(np.float32)
    ring = judge.score(stored(points.draw("ring", 1000, None, seed=2)), NAMES)
    gaussian = judge.score(blind[:, None, None, :], NAMES)
    assert gaussian["fid"] < 0.01
    assert gaussian["mind"] > 5 * ring["mind"]


def test_points_without_parts_have_no_modes_and_say_so() -> None:
    real = stored(points.draw("disc", 500, None, seed=0))
    extractor = CoordinatesExtractor(fit_modes(real, None, 0), "digest")
    judge = Judge(extractor, POINT, Reference.of(extractor.features(real).features), "data")
    assert set(judge.left_out) == {"is", "classes", "modes"}
    with pytest.raises(UserError, match="no parts"):
        judge.choose(["modes"])


def test_images_have_no_modes_and_points_are_no_images() -> None:
    with pytest.raises(UserError, match="float32"):
        check_images(np.zeros((60, 1, 1, 2)), POINT)
    with pytest.raises(UserError, match="not finite"):
        check_images(np.full((60, 1, 1, 2), np.nan, np.float32), POINT)
    with pytest.raises(UserError, match="uint8"):
        check_images(np.zeros((60, 8, 8, 1), np.float32), ImageShape(1, 8, 8))
