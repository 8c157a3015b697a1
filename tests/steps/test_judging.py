"""The judge's steps on real digits: extractor, evaluate floor, judge, and what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from genforge.catalog import build_network, build_sampler, resolve
from genforge.contracts import ImageShape, Port
from genforge.data.loading import Prepared
from genforge.evaluation.extractor import load_extractor
from genforge.evaluation.fidelity import Judge
from genforge.evaluation.metrics import METRICS
from genforge.evaluation.protocol import Protocol
from genforge.files import read_json, write_array, write_json, write_text
from genforge.models import Model
from genforge.settings import UserError
from genforge.steps import evaluate, extractor, ingest, prepare, rank
from genforge.steps.judge import judge, verdict_table
from genforge.steps.project import Project
from tests.torch_fidelity_call import calculate
from tests.trained_models import trained_folder

PARAMS = """
extractor: {steps: 200, batch_size: 64, width: 16}
evaluation: {images: 200}
recipes:
  first: {from: gaussian}
  second: {from: hinge-sngan}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Digits, prepared, with a small extractor."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("digits")
    write_text(root / "params.yaml", PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENFORGE_UPLOADER", "off")
        made = Project.load(root)
        ingest.run(made)
        prepare.run(made)
        extractor.run(made)
    return made


@pytest.fixture(autouse=True)
def _no_uploader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENFORGE_UPLOADER", "off")


@pytest.fixture(scope="module")
def real(project: Project) -> np.ndarray:
    return np.array(Prepared.open(project.prepared).images("train"))


@pytest.fixture(scope="module")
def held_out(project: Project) -> np.ndarray:
    return np.array(Prepared.open(project.prepared).images("test"))


def test_the_extractor_learns_and_its_card_says_how_well(project: Project) -> None:
    card = read_json(project.extractor / "card.json")
    assert (card["kind"], card["has_logits"], card["classes"]) == ("labels", True, [str(digit) for digit in range(10)])
    assert card["validation_accuracy"] > 0.9
    assert card["data"] == Prepared.open(project.prepared).digest
    assert card["reference"]["images"] == Prepared.open(project.prepared).count("train")


def test_training_the_extractor_again_gives_the_same_bits(project: Project, tmp_path: Path) -> None:
    again = Project(tmp_path, project.config)
    (tmp_path / "data").symlink_to(project.root / "data")
    write_text(tmp_path / "params.yaml", PARAMS)
    extractor.run(again)
    files = sorted(path.name for path in project.extractor.iterdir())
    assert files == ["card.json", "reference-features.npy", "reference.safetensors", "weights.safetensors"]
    assert all((again.extractor / name).read_bytes() == (project.extractor / name).read_bytes() for name in files)


def test_numbers_of_judge_equal_a_direct_call_of_torch_fidelity(
    project: Project, real: np.ndarray, held_out: np.ndarray, tmp_path: Path
) -> None:
    write_array(tmp_path / "images.npy", held_out[:300])
    verdict = judge(project, tmp_path / "images.npy")
    direct = calculate(
        load_extractor(project.extractor),
        held_out[:300],
        real,
        Protocol.from_json(verdict["protocol"]),
        **{"isc": True, "fid": True, "kid": True, "prc": True},
        batch_size=250,
        save_cpu_ram=True,
    )
    shared = {name: verdict["metrics"][name] for name in ("fid", "kid", "is", "precision", "recall")}
    assert shared == {
        "fid": pytest.approx(direct["frechet_inception_distance"], rel=1e-6),
        "kid": pytest.approx(direct["kernel_inception_distance_mean"], rel=1e-6),
        "is": pytest.approx(direct["inception_score_mean"], rel=1e-6),
        "precision": pytest.approx(direct["precision"], rel=1e-6),
        "recall": pytest.approx(direct["recall"], rel=1e-6),
    }


def test_the_judge_sees_what_is_wrong(project: Project, real: np.ndarray, held_out: np.ndarray) -> None:
    judging = Judge.open(project.extractor, project.prepared)
    labels = Prepared.open(project.prepared).labels("test")
    assert labels is not None
    random = np.random.RandomState(0)
    images = held_out[:300]
    floor = judging.score(images)
    noise = judging.score(random.randint(0, 256, images.shape).astype(np.uint8))
    turned = judging.score(np.ascontiguousarray(images[:, ::-1]))
    one_mode = judging.score(held_out[labels == 3].repeat(6, axis=0)[:300])
    without_sevens = judging.score(held_out[labels != 7][:300])
    box = judging.score(real[random.randint(0, len(real), 300)] // 2)
    for worse in (noise, turned, one_mode, box):
        assert worse["fid"] > 5 * floor["fid"]
        assert worse["kid"] > floor["kid"] + 0.01
    assert without_sevens["fid"] > 1.3 * floor["fid"]
    assert noise["precision"] < 0.5 * floor["precision"]
    assert one_mode["recall"] < 0.5 * floor["recall"]
    assert one_mode["is"] < 2 < 5 < floor["is"]


def test_a_folder_is_judged_as_its_images_and_broken_files_are_reported(
    project: Project, held_out: np.ndarray, tmp_path: Path
) -> None:
    write_array(tmp_path / "images.npy", held_out[:120])
    folder = tmp_path / "images"
    for made in (folder, tmp_path / "elsewhere"):
        made.mkdir()
    (folder / "deeper").symlink_to(tmp_path / "elsewhere")  # links to folders are followed, as `ingest` follows them
    for number, image in enumerate(held_out[:120]):
        Image.fromarray(image[..., 0]).save(folder / ("deeper" if number % 2 else "") / f"{number:03d}.png")
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:30])
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty.jpg").touch()
    from_folder, from_array = judge(project, folder), judge(project, tmp_path / "images.npy")
    # A folder has another order than the array, on which IS (by its parts) and KID (by its subsets) depend a little.
    for name in ("fid", "precision", "recall"):
        assert from_folder["metrics"][name] == pytest.approx(from_array["metrics"][name], rel=1e-3)
    assert from_folder["images"] == 120
    assert [entry["path"] for entry in from_folder["broken"]] == ["broken.png", "empty.jpg", "notes.txt"]
    assert all(entry["reason"] for entry in from_folder["broken"])
    assert any("could not be read and were not judged: 3" in note for note in from_folder["notes"])
    assert json.loads(json.dumps(from_folder)) == from_folder


def test_images_of_another_size_are_resized_as_the_data_is_and_that_is_said(
    project: Project, held_out: np.ndarray, tmp_path: Path
) -> None:
    for number, image in enumerate(held_out[:60]):
        Image.fromarray(image[..., 0]).resize((32, 32)).convert("RGB").save(tmp_path / f"{number}.png")
    verdict = judge(project, tmp_path)
    assert verdict["images"] == 60
    assert any("of another size" in note and "data.fit: crop): 60" in note for note in verdict["notes"])


def test_another_number_of_images_is_another_protocol_and_that_is_said(
    project: Project, held_out: np.ndarray, tmp_path: Path
) -> None:
    write_array(tmp_path / "many.npy", held_out[:200])
    write_array(tmp_path / "few.npy", held_out[:100])
    many, few = judge(project, tmp_path / "many.npy"), judge(project, tmp_path / "few.npy")
    assert many["protocol_name"] != few["protocol_name"]
    assert not many["notes"]
    assert "not comparable with the leaderboard, whose rows have 200 images" in few["notes"][0]


def test_a_verdict_is_shown_with_its_notes(project: Project, held_out: np.ndarray, tmp_path: Path) -> None:
    write_array(tmp_path / "few.npy", held_out[:100])
    console = Console(width=140, record=True, quiet=False, file=(tmp_path / "screen").open("w"))
    verdict = judge(project, tmp_path / "few.npy")
    console.print(verdict_table(verdict))
    text = console.export_text()
    assert "FID" in text
    assert verdict["protocol_name"] in text
    assert "not comparable" in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nothing", "does not exist"),
        (lambda path: path, "holds no files"),
        (
            lambda path: write_array(path / "floats.npy", np.zeros((60, 8, 8, 1))) or path / "floats.npy",
            "float64.*uint8",
        ),
        (
            lambda path: write_array(path / "large.npy", np.zeros((60, 28, 28, 1), np.uint8)) or path / "large.npy",
            r"\(60, 28, 28, 1\).*\(n, 8, 8, 1\)",
        ),
        (lambda path: write_array(path / "one.npy", np.array(3, np.uint8)) or path / "one.npy", r"shape \(\)"),
        (lambda path: write_text(path / "page.html", "") or path / "page.html", "neither a folder"),
        (lambda path: write_text(path / "a" / "page.html", "x") or path / "a", "none of the 1 files .* is an image"),
    ],
)
def test_what_cannot_be_judged_is_told(
    project: Project, tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        judge(project, make(tmp_path))


def test_an_extractor_of_other_data_is_refused(project: Project, tmp_path: Path) -> None:
    write_json(tmp_path / "card.json", {**read_json(project.prepared / "card.json"), "digest": "another"})
    with pytest.raises(UserError, match=r"was made for data .* holds another; run `genforge step extractor`"):
        Judge.open(project.extractor, tmp_path)


def test_values_of_every_seed_are_kept_with_mean_and_spread() -> None:
    assert evaluate.summary([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(7**0.5), "values": [1.0, 2.0, 6.0]}


def test_the_floor_is_drawn_without_replacement_by_the_seed(project: Project) -> None:
    prepared = Prepared.open(project.prepared)
    first, again, other = (evaluate.held_out(prepared, 200, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    everything = evaluate.held_out(prepared, prepared.count("test"), 5)
    assert np.array_equal(everything, prepared.images("test"))


def test_a_floor_of_more_images_than_were_held_out_is_refused(project: Project) -> None:
    with pytest.raises(UserError, match=r"evaluation\.images is 5000, but the test split holds 5\d\d images"):
        evaluate.held_out(Prepared.open(project.prepared), 5000, 0)


def put_samples(project: Project, name: str, images: list[np.ndarray]) -> None:
    """What the steps `resolve`, `train` and `sample` would have left."""
    recipe = resolve(name, project.config.recipes[name])
    write_json(
        project.recipe_file(name), {"recipe": recipe.model_dump(mode="json"), "family": recipe.family, "code": ""}
    )
    for seed, drawn in zip(project.config.evaluation.seeds, images, strict=True):
        write_array(project.samples(name) / f"seed-{seed}.npy", drawn)
    write_json(
        project.samples(name) / "card.json", {"images_per_second": 100.0, "seconds": 6.0, "images": 200, "seeds": []}
    )
    trained_folder(project.model(name), "GAN", name)


def test_from_samples_to_leaderboard(project: Project, held_out: np.ndarray) -> None:
    random = np.random.RandomState(0)
    put_samples(project, "first", [random.randint(0, 256, (200, 8, 8, 1)).astype(np.uint8) for _ in range(3)])
    put_samples(project, "second", [held_out[start : start + 200] // 8 * 8 for start in (0, 100, 200)])
    with pytest.raises(UserError, match="not judged yet: floor, first, second"):
        rank.run(project)
    for name in ("floor", "first", "second"):
        evaluate.run(project, name)

    result: dict[str, Any] = read_json(project.evaluation("second"))
    assert (result["family"], result["origin"], result["seeds"]) == ("GAN", "hinge-sngan", [0, 1, 2])
    assert len(result["metrics"]["fid"]["values"]) == 3
    assert result["metrics"]["fid"]["mean"] == pytest.approx(np.mean(result["metrics"]["fid"]["values"]))
    assert Protocol.from_json(result["protocol"]).name == result["protocol_name"]
    known = set(METRICS) - {"modes"}  # which points alone have
    assert set(result["metrics"]) == known
    assert known - set(read_json(project.evaluation("floor"))["metrics"]) == {"path_length"}
    assert read_json(project.metrics("second"))["protocol"] == result["protocol_name"]

    rank.run(project)
    board = read_json(project.leaderboard)
    assert [(row["name"], row["role"], row["rank"]) for row in board["rows"]] == [
        ("floor", "floor", None),
        ("second", "model", 1),
        ("first", "ceiling", None),
    ]
    assert board["rows"][1]["parameters"] == 1000
    assert board["rows"][1]["images_per_second"] == 100.0
    assert project.leaderboard.with_suffix(".md").is_file()
    assert project.leaderboard.with_suffix(".csv").read_text().startswith("name,role,rank,family,fid,fid_low,fid_high,")


def frozen_generator() -> Model:
    """A generator that has stopped listening to its latent: one image for all."""
    torch.manual_seed(0)
    port = Port("latent_to_image", ImageShape(1, 8, 8), latent_size=16)
    network = build_network({"name": "dcgan-generator", "width": 8}, port, "test").eval()
    torch.nn.init.zeros_(network.project.weight)
    return Model(network, build_sampler({"name": "one-shot"}), {})


def variations(image: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The image moved by up to half a pixel either way and paler by up to a fifth, uint8 (count, h, w, c)."""
    random = np.random.RandomState(seed)
    down, right, paler = (random.uniform(0.0, most, (count, 1, 1, 1)) for most in (0.5, 0.5, 0.2))
    moved = (1 - down) * image + down * np.roll(image, 1, axis=0)
    moved = (1 - right) * moved + right * np.roll(moved, 1, axis=2)
    return ((1 - paler) * moved).round().astype(np.uint8)


def test_a_generator_frozen_to_one_mode_is_caught_by_one_evaluation_and_a_healthy_one_is_not(
    project: Project, held_out: np.ndarray, real: np.ndarray, tmp_path: Path
) -> None:
    for name in ("data", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "prepared").symlink_to(project.prepared)
    (tmp_path / "results" / "extractor").symlink_to(project.extractor)
    write_text(tmp_path / "params.yaml", PARAMS.replace("images: 200", "images: 200, metrics: [fid]"))
    ours, labels = Project.load(tmp_path), Prepared.open(project.prepared).labels("train")
    assert labels is not None
    ones = real[labels == 1]  # about 100
    darker = np.concatenate([ones, ones - ones // 20, ones - ones // 10])  # one mode, all images different
    cases = {
        "healthy": ([held_out[start : start + 200] // 8 * 8 for start in (0, 100, 200)], ""),
        "one image": (
            [frozen_generator().draw(seed, 200) for seed in (0, 1, 2)],
            r"100% of its images are there twice",
        ),
        "one shape": ([variations(real[0], 200, seed) for seed in (0, 1, 2)], r"its images are variations of one \("),
        "one class": ([darker[start : start + 200] for start in (0, 20, 40)], r"it reaches [12]\S* of 10 classes"),
    }
    for case, (images, words) in cases.items():
        put_samples(ours, "second", images)
        evaluate.run(ours, "second")
        found = read_json(ours.evaluation("second"))
        assert re.search(words, found["collapsed"]) if words else "collapsed" not in found, case
        assert found["variety"]["of_classes"] == 10
    put_samples(ours, "first", [held_out[:200]] * 3)
    for name in ("first", "floor"):
        evaluate.run(ours, name)
    rank.run(ours)
    assert [(row["name"], row["role"]) for row in read_json(ours.leaderboard)["rows"]] == [
        ("floor", "floor"),
        ("first", "ceiling"),
        ("second", "collapsed"),
    ]


def test_samples_of_another_number_are_refused(project: Project, held_out: np.ndarray) -> None:
    put_samples(project, "second", [held_out[:199]] * 3)
    with pytest.raises(
        UserError, match=r"holds 199 images, but evaluation\.images is 200.*genforge step sample second"
    ):
        evaluate.run(project, "second")


def test_the_metrics_of_params_yaml_are_computed_and_no_others(project: Project, tmp_path: Path) -> None:
    for text, expected in (("[mind, fid]", {"mind", "fid"}), ("[kid]", "leaves out fid, by which models are ranked")):
        (root := tmp_path / text.strip("[]").partition(",")[0]).mkdir()
        for name in ("data", "results"):
            (root / name).mkdir()
        (root / "data" / "prepared").symlink_to(project.prepared)
        (root / "results" / "extractor").symlink_to(project.extractor)
        write_text(root / "params.yaml", PARAMS.replace("images: 200", f"images: 200, metrics: {text}"))
        chosen = Project.load(root)
        if isinstance(expected, set):
            evaluate.run(chosen, "floor")
            assert set(read_json(chosen.evaluation("floor"))["metrics"]) == expected
        else:
            with pytest.raises(UserError, match=expected):
                evaluate.run(chosen, "floor")


def test_evaluate_needs_a_name(project: Project) -> None:
    with pytest.raises(UserError, match="name a recipe, or `floor`"):
        evaluate.run(project)


def test_without_labels_rotations_are_learned_and_there_is_no_inception_score(project: Project, tmp_path: Path) -> None:
    unlabelled = Project(tmp_path, project.config)
    write_text(tmp_path / "params.yaml", PARAMS)
    unlabelled.prepared.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        name = f"{split}-images.npy"
        (unlabelled.prepared / name).symlink_to(project.prepared / name)
    write_json(unlabelled.prepared / "card.json", {**read_json(project.prepared / "card.json"), "classes": []})
    extractor.run(unlabelled)
    card = read_json(unlabelled.extractor / "card.json")
    assert (card["kind"], card["has_logits"]) == ("rotations", False)
    assert card["validation_accuracy"] > 0.6  # of four
    evaluate.run(unlabelled, "floor")
    result = read_json(unlabelled.evaluation("floor"))
    assert "is" not in result["metrics"]
    assert "rotations" in result["left_out"]["is"]
