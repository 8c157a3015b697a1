from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genforge.contracts import ImageShape
from genforge.evaluation.fidelity import Judge
from genforge.evaluation.measures import neighbours
from genforge.settings import UserError
from tests.torch_fidelity_call import calculate

GRAY, COLOUR = ImageShape(1, 8, 8), ImageShape(3, 16, 16)
SHARED = ("fid", "kid", "is", "precision", "recall")  # with torch-fidelity
Make = Callable[..., Any]


def direct(judge: Judge, generated: np.ndarray, real: np.ndarray) -> dict[str, float]:
    every = {"isc": judge.extractor.has_logits, "fid": True, "kid": True, "prc": True}
    protocol = judge.protocol(len(generated))
    return calculate(judge.extractor, generated, real, protocol, batch_size=250, save_cpu_ram=True, **every)


@pytest.mark.parametrize("shape", [GRAY, COLOUR], ids=["gray 8x8", "colour 16x16"])
def test_numbers_equal_a_direct_call_of_torch_fidelity(
    shape: ImageShape, judge_of: Make, classifier: Make, images_of: Make
) -> None:
    real, generated = images_of(1200, shape, seed=0), images_of(500, shape, level=110, seed=1)
    judge = judge_of(classifier(shape), real)
    ours, theirs = judge.score(generated, SHARED), direct(judge, generated, real)
    assert ours == {
        "fid": pytest.approx(theirs["frechet_inception_distance"], rel=1e-6),
        "kid": pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6),
        "is": pytest.approx(theirs["inception_score_mean"], rel=1e-6),
        "precision": pytest.approx(theirs["precision"], rel=1e-6),  # a share that torch-fidelity rounds to float32
        "recall": pytest.approx(theirs["recall"], rel=1e-6),
    }


def test_a_metric_alone_has_the_value_that_it_has_among_all(judge_of: Make, classifier: Make, images_of: Make) -> None:
    judge = judge_of(classifier(GRAY), images_of(300, GRAY, seed=0))
    generated = images_of(100, GRAY, seed=1)
    together = judge.score(generated)
    assert {name: judge.score(generated, [name])[name] for name in together} == together


def test_the_batch_size_changes_nothing(judge_of: Make, classifier: Make, images_of: Make) -> None:
    judge, generated = judge_of(classifier(GRAY), images_of(300, GRAY)), images_of(100, GRAY, seed=1)
    whole = judge.score(generated)
    judge.batch_size = 7
    assert judge.score(generated) == pytest.approx(whole, rel=1e-4)


def test_half_precision_moves_fid_by_less_than_its_spread_and_is_another_protocol(
    judge_of: Make, classifier: Make, images_of: Make
) -> None:
    judge = judge_of(classifier(GRAY), images_of(1000, GRAY))
    sets = [images_of(200, GRAY, level=120, seed=seed) for seed in range(1, 6)]
    full = np.array([judge.score(images, ["fid"])["fid"] for images in sets])
    name = judge.protocol(200).name
    judge.extractor.precision = "bfloat16"
    half = np.array([judge.score(images, ["fid"])["fid"] for images in sets])
    assert judge.protocol(200).name != name
    assert 0 < np.abs(half - full).max() < full.std(ddof=1) / 3


def test_frechet_distance_of_gaussians_has_its_closed_form(judge_of: Make, linear: Make) -> None:
    """Pixels are independent normals, features their projection: the distance of N(a, A) and N(b, B) for commuting
    covariances is |a - b|^2 + sum over axes of (sqrt(A_i) - sqrt(B_i))^2."""
    pick = np.eye(64)[:, :12]
    random = np.random.RandomState(0)
    spreads, others = np.linspace(10, 20, 64), np.linspace(20, 10, 64)
    real = random.normal(120, spreads, (60_000, 64)).round().clip(0, 255).astype(np.uint8).reshape(-1, 8, 8, 1)
    made = random.normal(130, others, (60_000, 64)).round().clip(0, 255).astype(np.uint8).reshape(-1, 8, 8, 1)
    # Rounding to whole levels adds 1/12 to each variance.
    first, second = np.sqrt(spreads[:12] ** 2 + 1 / 12), np.sqrt(others[:12] ** 2 + 1 / 12)
    expected = 12 * 10.0**2 + ((first - second) ** 2).sum()
    assert judge_of(linear(pick), real).score(made, ["fid"])["fid"] == pytest.approx(expected, rel=0.01)


def test_the_same_images_are_at_no_distance(judge_of: Make, linear: Make, images_of: Make) -> None:
    real = images_of(400, GRAY)
    scores = judge_of(linear(np.eye(64)[:, ::4] / 64), real).score(real)
    assert scores["fid"] == pytest.approx(0.0, abs=1e-4)
    assert (scores["precision"], scores["recall"]) == (1.0, 1.0)


def test_worse_images_score_worse(judge_of: Make, classifier: Make, images_of: Make) -> None:
    judge, images = judge_of(classifier(GRAY), images_of(1000, GRAY, seed=0)), images_of(500, GRAY, seed=1)
    noise = np.random.RandomState(0).normal(0, 1, images.shape)
    noisy = [(images + level * noise).round().clip(0, 255).astype(np.uint8) for level in (0, 20, 40, 80)]
    distances = [judge.score(made, ["fid"])["fid"] for made in noisy]
    assert distances == sorted(distances)
    assert distances[0] * 2 < distances[1]


def test_generated_comes_first_and_real_second(judge_of: Make, linear: Make, images_of: Make) -> None:
    """One mode of two: all that is generated is real, but only half of what is real is generated."""
    dark, bright = images_of(300, GRAY, level=60, seed=0), images_of(300, GRAY, level=200, seed=1)
    judge = judge_of(linear(np.eye(64)[:, :12]), np.concatenate([dark, bright]))
    scores = judge.score(images_of(300, GRAY, level=60, seed=2))
    assert scores["precision"] > 0.8
    assert scores["recall"] < 0.55


def test_order_of_layers_differs_between_processes_and_numbers_do_not() -> None:
    """A set of strings has an order that hangs on the hash seed of the process."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", NUMBERS_OF_A_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("0", "2")
    ]
    (first_order, *first), (second_order, *second) = (process.communicate()[0].splitlines() for process in processes)
    assert first_order != second_order
    assert first == second
    assert first[-1] == "[]", "a process that judges pays for the import of what it does not need"


NUMBERS_OF_A_PROCESS = """
import tempfile
from pathlib import Path
import torch
from conftest import blobs, judge_with, random_classifier
from genforge.contracts import ImageShape
torch.set_num_threads(1)
shape = ImageShape(1, 8, 8)
print(list({"features", "logits"}))
with tempfile.TemporaryDirectory() as folder:
    judge = judge_with(Path(folder), random_classifier(shape), blobs(200, shape))
print(judge.score(blobs(100, shape, seed=1)))
import sys
print([name for name in ("torch_fidelity", "torchvision", "scipy.stats", "torch._dynamo") if name in sys.modules])
"""


def test_real_images_are_looked_at_once(judge_of: Make, linear: Make, images_of: Make) -> None:
    looked: list[int] = []
    judge = judge_of(linear(np.eye(64)[:, :12], looked), images_of(700, GRAY))
    assert sum(looked) == 700
    judge.score(images_of(100, GRAY, seed=1))
    judge.score(images_of(100, GRAY, seed=2))
    assert sum(looked) == 900


def test_a_judge_keeps_its_reference_on_disk_and_nothing_else(
    judge_of: Make, classifier: Make, images_of: Make, tmp_path: Path
) -> None:
    judge_of(classifier(GRAY), images_of(300, GRAY)).score(images_of(100, GRAY, seed=1))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "reference-features.npy",
        "reference.safetensors",
    ]


def test_judging_takes_nothing_from_the_random_numbers_of_a_training(
    judge_of: Make, classifier: Make, images_of: Make
) -> None:
    judge, generated = judge_of(classifier(GRAY), images_of(300, GRAY)), images_of(100, GRAY, seed=1)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]
    judge.score(generated)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # type: ignore[index]


def test_without_classes_there_is_no_inception_score_and_the_reason_is_told(
    judge_of: Make, classifier: Make, images_of: Make
) -> None:
    judge = judge_of(classifier(GRAY, names_classes=False), images_of(300, GRAY))
    generated = images_of(100, GRAY, seed=1)
    assert not {"is", "classes"} & set(judge.score(generated))
    assert all("rotations" in judge.left_out[name] for name in ("is", "classes"))
    assert judge.protocol(100).logits_layer is None
    with pytest.raises(UserError, match="IS cannot be computed: the extractor learned rotations"):
        judge.score(generated, ["is"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((60, 28, 28, 1), np.uint8), r"\(60, 28, 28, 1\).*\(n, 8, 8, 1\).*data\.image_size"),
        (np.zeros((60, 8, 8, 3), np.uint8), r"\(60, 8, 8, 3\).*\(n, 8, 8, 1\).*data\.channels"),
        (np.zeros((60, 8, 8), np.uint8), r"\(60, 8, 8\)"),
        (np.zeros((60, 8, 8, 1), np.float32), r"float32.*uint8.*127\.5"),
        (np.zeros((49, 8, 8, 1), np.uint8), r"49 images are too few.*50"),
    ],
)
def test_what_cannot_be_judged_is_told_with_the_remedy(
    images: np.ndarray, message: str, judge_of: Make, classifier: Make, images_of: Make
) -> None:
    judge = judge_of(classifier(GRAY), images_of(300, GRAY))
    with pytest.raises(UserError, match=message):
        judge.score(images)


def test_features_that_are_not_finite_are_an_error_and_no_number(judge_of: Make, linear: Make, images_of: Make) -> None:
    judge = judge_of(linear(np.eye(64)[:, :12]), images_of(300, GRAY))
    judge.extractor.matrix[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        judge.score(images_of(100, GRAY), ["precision", "recall"])


def test_precision_and_recall_look_at_a_fixed_part_of_many_real_images() -> None:
    chosen = neighbours.part_of(20_000, 2020)
    assert len(set(chosen.tolist())) == neighbours.IMAGES
    assert np.array_equal(chosen, neighbours.part_of(20_000, 2020))
    assert np.array_equal(neighbours.part_of(100, 2020), np.arange(100))


def test_protocol_says_the_part_of_the_real_images_that_precision_and_recall_looked_at(
    judge_of: Make, linear: Make, images_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "IMAGES", 150)
    real, generated = images_of(400, GRAY), images_of(100, GRAY, seed=1)
    judge = judge_of(linear(np.eye(64)[:, :12]), real)
    assert judge.protocol(100).settings["precision"] == {"neighbours": 3, "real_images": 150}
    ours, theirs = judge.score(generated), direct(judge, generated, real[neighbours.part_of(400, 2020)])
    assert ours["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours["recall"] == pytest.approx(theirs["recall"], rel=1e-6)


def test_the_subsets_of_kid_are_never_larger_than_what_there_is(judge_of: Make, linear: Make, images_of: Make) -> None:
    judge = judge_of(linear(np.eye(64)[:, :12]), images_of(300, GRAY))
    assert [judge.protocol(count).settings["kid"]["subset_size"] for count in (50, 250, 5000)] == [50, 250, 300]
