"""Error bars hold the truth as often as they say, the same model twice is not called different, a worse one is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from genforge.evaluation.features import Features
from genforge.evaluation.statistics import Coverage, FrechetDistance, Precision, Recall, Statistic
from genforge.evaluation.uncertainty import (
    SURE,
    Comparison,
    compare,
    deal,
    estimate,
    frechet_infinity,
)

SIZE = 4  # dimensions of the features
REFERENCE = np.random.default_rng(11).normal(size=(600, SIZE))
TRUTH = FrechetDistance(np.zeros(SIZE), np.eye(SIZE))


class Mean(Statistic):
    """The mean of the first feature: everything about it is known."""

    name, lower_is_better = "mean", False

    def _over(self, seen: Features, subsets: np.ndarray) -> np.ndarray:
        return np.asarray(seen.features[:, 0][subsets].mean(axis=1))


def model(
    random: np.random.Generator, images: int = 80, seeds: int = 3, shift: float = 0.0, scale: float = 1.0
) -> list[Features]:
    """What the judge sees in a model that draws Gaussian features: `shift` off in every dimension, `scale` as wide."""
    return [
        Features((random.normal(size=(images, SIZE)) * scale + shift).astype(np.float32), None) for _ in range(seeds)
    ]


def test_groups_are_dealt_without_replacement() -> None:
    dealt = deal(count=10, groups=3, deals=50, seed=0)
    assert dealt.shape == (50, 3, 3)
    assert all(len(set(one.ravel())) == 9 for one in dealt)
    assert set(dealt.ravel()) == set(range(10))  # the one that stays out is another one each time
    assert np.array_equal(dealt, deal(10, 3, 50, 0)) and not np.array_equal(dealt, deal(10, 3, 50, 1))


def test_the_standard_error_of_a_mean_is_the_textbooks() -> None:
    seen = model(np.random.default_rng(0), images=60, seeds=3)
    values = np.concatenate([one.features[:, 0] for one in seen])
    found = estimate(Mean(), seen, deals=4000)
    assert found.mean == pytest.approx(values.mean(), rel=1e-4)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(180), rel=0.05)
    assert (found.low + found.high) / 2 == pytest.approx(found.mean)
    assert found.high - found.mean == pytest.approx(norm.ppf(0.975) * found.standard_error)


def test_the_estimate_is_the_mean_over_seeds_and_not_the_best() -> None:
    seen = model(np.random.default_rng(1))
    values = [TRUTH.of(one) for one in seen]
    found = estimate(TRUTH, seen, deals=5)
    assert found.values == pytest.approx(values)
    assert found.mean == pytest.approx(np.mean(values)) and found.mean > min(values)


@pytest.mark.parametrize("statistic", [TRUTH, Precision(REFERENCE), Recall(REFERENCE), Coverage(REFERENCE)],
                         ids=lambda statistic: statistic.name)  # fmt: skip
def test_the_standard_error_is_how_much_the_number_varies(statistic: Statistic) -> None:
    random = np.random.default_rng(2)
    trials = 60
    found = [estimate(statistic, model(random, images=50, scale=1.3), deals=6) for _ in range(trials)]
    varies = np.std([one.mean for one in found], ddof=1)
    claimed = np.sqrt(np.mean([one.standard_error**2 for one in found]))
    # The measured spread itself is known to 1 / sqrt(2 * 59): 9%. A bootstrap of coverage is off by half.
    assert claimed == pytest.approx(varies, rel=0.3)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    # The truth: the expectation at 80 images, from 3,000 sets of them.
    random = np.random.default_rng(3)
    truth = np.mean([TRUTH.of(one) for one in model(random, seeds=3000, shift=0.5)])
    held = [one.low <= truth <= one.high for one in (estimate(TRUTH, model(random, shift=0.5)) for _ in range(200))]
    assert 0.90 <= np.mean(held) <= 0.99


def test_a_bootstrap_with_replacement_would_be_off() -> None:
    """Why images are dealt instead: duplicates look like a lack of variety."""
    seen = model(np.random.default_rng(4), images=80, seeds=1)[0]
    again = np.random.default_rng(5).integers(0, 80, size=(300, 80))
    assert TRUTH.over(seen, again).mean() > TRUTH.of(seen) + 2 * TRUTH.over(seen, again).std() / np.sqrt(300)
    assert TRUTH.over(seen, again).mean() > 1.5 * TRUTH.of(seen)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 1.5)])
def test_the_same_model_twice_is_called_different_in_5_percent_of_200_trials_at_most(
    shift: float, scale: float
) -> None:
    random = np.random.default_rng(6)
    trials: list[Comparison] = []
    for _ in range(200):
        one, other = (model(random, shift=shift, scale=scale) for _ in range(2))
        trials.append(compare(TRUTH, one, other))
    rate = np.mean([found.differ() for found in trials])
    print(f"A/A at shift {shift}, scale {scale}: {rate:.1%} of 200 called different, {2 * (1 - SURE):.0%} claimed")
    assert rate <= 0.05
    # And the probabilities themselves are evenly spread, as a p-value's are: not all near 0.5.
    assert 0.30 <= np.mean([found.probability < 0.5 for found in trials]) <= 0.70
    assert 0.04 <= np.mean([found.differ(0.9) for found in trials]) <= 0.35


def test_a_model_made_worse_by_a_known_amount_is_found_out() -> None:
    """A shift of 0.35 in each of 4 dimensions adds 4 * 0.35^2 = 0.49 to the distance."""
    random = np.random.default_rng(7)
    trials = [compare(TRUTH, model(random), model(random, shift=0.35)) for _ in range(100)]
    assert np.mean([found.probability >= SURE for found in trials]) >= 0.95
    assert np.mean([found.difference for found in trials]) == pytest.approx(-4 * 0.35**2, rel=0.1)
    assert not any(found.probability < 0.5 for found in trials)
    print(f"power at a difference of 0.49: {np.mean([found.probability >= SURE for found in trials]):.0%} of 100")


def test_a_margin_has_to_be_beaten() -> None:
    random = np.random.default_rng(8)
    good, bad = model(random, images=300), model(random, images=300, shift=0.35)
    assert compare(TRUTH, good, bad, margin=0.2).probability > 0.99
    assert compare(TRUTH, good, bad, margin=1.0).probability < 0.01
    assert compare(TRUTH, bad, good, margin=-1.0).probability > 0.99  # not worse by more than 1
    forth, back = compare(TRUTH, good, bad), compare(TRUTH, bad, good)
    assert forth.probability == pytest.approx(1 - back.probability)
    assert forth.low < forth.difference < forth.high < 0.0


def test_what_two_models_share_cancels() -> None:
    random = np.random.default_rng(9)
    one = model(random, images=50)
    other = [Features(seen.features * 1.02, None) for seen in one]  # the same noise, a little wider
    paired, shuffled = compare(Mean(), one, other), compare(Mean(), one, model(random, images=50))
    assert paired.standard_error < shuffled.standard_error / 10


def test_the_same_images_are_neither_better_nor_worse() -> None:
    seen = model(np.random.default_rng(10))
    assert compare(TRUTH, seen, seen).probability == 0.5
    assert compare(TRUTH, seen, seen, margin=0.1).probability == 0.0


def test_models_are_compared_on_as_many_images() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="as many images"):
        compare(TRUTH, model(random, images=50), model(random, images=60))


def test_the_distance_at_infinity_has_lost_its_bias() -> None:
    """The truth of `shift` 0.3 in 4 dimensions is 4 * 0.09 = 0.36; at n images FID lies above it by about
    d (d + 7) / 4 n."""
    random = np.random.default_rng(12)
    raw, found = [], []
    for _ in range(40):
        (seen,) = model(random, images=200, seeds=1, shift=0.3)
        raw.append(TRUTH.of(seen))
        found.append(frechet_infinity(TRUTH, seen.features).value)
    bias, noise = np.mean(raw) - 0.36, np.std(found) / np.sqrt(40)
    assert bias > 0.02
    assert abs(np.mean(found) - 0.36) < max(2.5 * noise, 0.3 * bias)


def test_the_line_to_infinity_tells_its_points() -> None:
    (seen,) = model(np.random.default_rng(13), images=400, seeds=1, shift=0.3)
    found = frechet_infinity(TRUTH, seen.features)
    assert (min(found.sizes), max(found.sizes)) == (100, 400)
    assert found.slope > 0 and found.value < found.means[-1]
    assert found.means[-1] == pytest.approx(TRUTH.of(seen))
    assert "FID_N" in found.to_json()["formula"]
    with pytest.raises(ValueError, match="more images than features"):
        frechet_infinity(TRUTH, seen.features[:12])
