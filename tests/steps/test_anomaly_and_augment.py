"""What densities and conditional models are good for, on real digits: the strangest images are found, and a set of
drawn images is written and told its worth."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from genforge.cli import parser
from genforge.contracts import ImageShape
from genforge.data.loading import Prepared
from genforge.files import read_array, read_json, write_array, write_json
from genforge.models import digest
from genforge.pictures import save_png
from genforge.settings import UserError
from genforge.steps import ingest, prepare, resolve, train
from genforge.steps.anomaly import anomaly, anomaly_table
from genforge.steps.augment import accuracies, augment, augmentation_table
from genforge.steps.draw import draw
from genforge.steps.project import Project
from genforge.steps.provenance import examine
from tests.trained_models import trained_folder

PARAMS = """
data: {name: digits, source: digits}
extractor: {steps: 60, batch_size: 32, width: 8}
recipes:
  gaussian: {from: gaussian}
  pixels:
    from: pixelcnn
    networks: {network: {width: 8, layers: 2, features: 16, mixtures: 3}}
    training: {steps: 60, batch_size: 32, log_every: 20}
  untrained: {from: hinge-sngan}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENFORGE_UPLOADER", "off")
        made = Project.load(root)
        for step in (ingest, prepare, resolve):
            step.run(made)
        train.run(made, "gaussian")
        train.run(made, "pixels")
    return made


@pytest.fixture(autouse=True)
def _no_uploader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENFORGE_UPLOADER", "off")


@pytest.fixture(scope="module")
def digits(project: Project) -> np.ndarray:
    return np.array(Prepared.open(project.prepared).images("validation"))


@pytest.mark.parametrize(
    ("model", "by"), [("gaussian", "likelihood"), ("pixels", "likelihood"), ("pixels", "typicality")]
)
def test_noise_among_digits_is_strangest(
    project: Project, digits: np.ndarray, model: str, by: str, tmp_path: Path
) -> None:
    for number, image in enumerate(digits[:6]):
        save_png(tmp_path / "images" / f"digit-{number}.png", image)
    noise = np.random.default_rng(0).integers(256, size=(8, 8, 1)).astype(np.uint8)
    save_png(tmp_path / "images" / "deeper" / "noise.png", noise)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    result = anomaly(project, tmp_path / "images", model, by, picture=tmp_path / "strange.png")
    assert result["images"][0]["image"] == "deeper/noise.png"
    assert result["images"][0]["p"] < 0.05
    scores = [row["score"] for row in result["images"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 7
    assert [row["path"] for row in result["broken"]] == ["notes.txt"]
    assert json.loads(json.dumps(result)) == result
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(anomaly_table(result))
    text = console.export_text()
    assert all(words in text for words in ("deeper/noise.png", "AUROC", "held-out test split", "notes.txt"))
    with Image.open(tmp_path / "strange.png") as picture:
        assert np.asarray(picture).reshape(-1)[0] in noise[0, 0]


def test_sets_are_told_apart_and_single_images_have_no_auroc(
    project: Project, digits: np.ndarray, tmp_path: Path
) -> None:
    shuffled = np.random.default_rng(0).permuted(digits[:40].reshape(40, -1), axis=1).reshape(40, 8, 8, 1)
    write_array(tmp_path / "shuffled.npy", shuffled)
    write_array(tmp_path / "digits.npy", digits[40:80])
    apart = anomaly(project, tmp_path / "shuffled.npy", "gaussian", against=tmp_path / "digits.npy")
    assert apart["auroc"]["value"] > 0.95
    assert apart["against"] == {"path": str(tmp_path / "digits.npy"), "images": 40, "mean": apart["against"]["mean"]}
    same = anomaly(project, tmp_path / "digits.npy", "gaussian")
    assert 0.3 < same["auroc"]["value"] < 0.7
    save_png(tmp_path / "one.png", digits[0])
    one = anomaly(project, tmp_path / "one.png", "gaussian")
    assert len(one["images"]) == 1 and one["auroc"] is None
    anomaly_table(one)


def test_the_likeliest_model_is_taken_that_can_give_the_score(
    project: Project, digits: np.ndarray, tmp_path: Path
) -> None:
    write_array(tmp_path / "digits.npy", digits[:3])
    assert anomaly(project, tmp_path / "digits.npy")["model"] == "gaussian"  # the first, of two not evaluated
    told = {"bits": 2.0, "protocol": {"of": "8-bit images"}}
    write_json(project.evaluation("pixels"), {"likelihood": told})
    assert anomaly(project, tmp_path / "digits.npy")["model"] == "pixels"
    # Fewer bits, but of something else: of a black-and-white image drawn from the gray one, or of one given its class.
    for of in ("images binarised at random", "8-bit images, given their classes"):
        write_json(project.evaluation("gaussian"), {"likelihood": {"bits": 0.1, "protocol": {"of": of}}})
        assert anomaly(project, tmp_path / "digits.npy")["model"] == "pixels"
    project.evaluation("gaussian").unlink()
    project.evaluation("pixels").unlink()
    with pytest.raises(UserError, match=r"no trained recipe .* gives the score 'energy'"):
        anomaly(project, tmp_path / "digits.npy", by="energy")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"by": "likelyhood"}, "did you mean `likelihood`"),
        ({"model": "gausian"}, "did you mean `gaussian`"),
        ({"model": "untrained"}, "untrained is not trained"),
        ({"model": "pixels", "by": "reconstruction"}, "neither an encoder nor a denoiser"),
        ({"picture": Path("grid.jpg")}, "should end with .png"),
        ({"path": Path("nowhere")}, "nowhere does not exist"),
        ({"against": Path("nowhere")}, "nowhere does not exist"),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_told(
    project: Project, digits: np.ndarray, tmp_path: Path, given: dict, words: str
) -> None:
    write_array(tmp_path / "digits.npy", digits[:3])
    with pytest.raises(UserError, match=words):
        anomaly(project, **{"path": tmp_path / "digits.npy", **given})


def test_a_file_s_name_is_shown_as_it_is(project: Project, digits: np.ndarray, tmp_path: Path) -> None:
    save_png(tmp_path / "files" / "a [red].png", digits[0])
    console = Console(file=io.StringIO(), width=200)
    console.print(anomaly_table(anomaly(project, tmp_path / "files", model="gaussian")))
    assert "a [red].png" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_full_disk_is_told_and_no_file_is_blamed_for_it(
    project: Project, digits: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_png(tmp_path / "files" / "0.png", digits[0])

    def no_room(handle: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(UserError, match=r"No space left on device .*TMPDIR"):
        anomaly(project, tmp_path / "files", model="gaussian")


def test_a_labelled_set_is_written_in_proportion_and_is_the_same_again(project: Project, tmp_path: Path) -> None:
    model = conditional_model(project.root / "made")
    result = augment(project, "made", tmp_path / "set", 30)
    assert result["images"] == {str(digit): 3 for digit in range(10)}
    files = sorted(path.relative_to(tmp_path / "set") for path in (tmp_path / "set").rglob("*.png"))
    assert [len([file for file in files if file.parts[0] == str(digit)]) for digit in range(10)] == [3] * 10
    augment(project, str(model), tmp_path / "again", 20)
    for path in (tmp_path / "again").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "set" / path.relative_to(tmp_path / "again")).read_bytes()
    with pytest.raises(UserError, match="not an empty folder"):
        augment(project, "made", tmp_path / "set", 30)

    # Each says which image of which model it is, and is that image again when it is asked for.
    third = min((tmp_path / "set" / "3").iterdir())
    said = examine(third, project.root).text
    assert said is not None and (said.weights, said.label) == (digest(model), 3)
    draw("made", said.index + 1, said.seed, tmp_path / "drawn.npy", project.root, label="3")
    assert np.array_equal(np.asarray(Image.open(third)), read_array(tmp_path / "drawn.npy")[said.index, ..., 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"classes": ["../out", *"123456789"]}, "no name for a folder"), ({"classes": []}, None)],
    ids=["hostile", "unnamed"],
)
def test_a_class_that_leads_elsewhere_is_refused(
    project: Project, tmp_path: Path, change: dict, words: str | None
) -> None:
    model = conditional_model(tmp_path / "model")
    write_json(model / "model.json", {**read_json(model / "model.json"), **change})
    if words is None:
        assert list(augment(project, str(model), tmp_path / "set", 10)["images"]) == [str(label) for label in range(10)]
        return
    with pytest.raises(UserError, match=words):
        augment(project, str(model), tmp_path / "set", 10)
    assert not (tmp_path / "set").exists() and not (tmp_path / "out").exists()


def test_a_model_without_labels_or_of_other_data_is_refused(project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes no labels"):
        augment(project, "pixels", tmp_path / "set", 10)
    other = trained_folder(tmp_path / "other", "GAN", classes=3)
    with pytest.raises(UserError, match=r"draws 3 classes .* and the prepared data have 10"):
        augment(project, str(other), tmp_path / "set", 10, measure=True)
    assert not (tmp_path / "set").exists()


def test_copies_of_real_images_are_worth_as_much_and_wrong_labels_nothing(project: Project) -> None:
    prepared = Prepared.open(project.prepared)
    images, labels = np.array(prepared.images("train")), prepared.labels("train")
    assert labels is not None
    found = accuracies(project, images, labels, repeats=1)
    assert found["synthetic"]["values"] == found["real"]["values"]
    assert found["real"]["mean"] > 0.7
    assert found["both"]["images"] == 2 * len(images)
    wrong = accuracies(project, images, (labels + 1) % 10, repeats=1)
    assert wrong["synthetic"]["mean"] < 0.1
    assert wrong["real"] == found["real"]
    made = {"folder": "set", "images": {"0": 5}, "accuracy": found}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(augmentation_table(made))
    assert f"{found['real']['mean']:.2%}" in console.export_text()


def test_the_commands_take_these_arguments() -> None:
    given = parser().parse_args(
        ["anomaly", "new", "--by", "complexity", "--against", "old", "--picture", "a.png", "--json"]
    )
    assert (given.path, given.by, given.against) == (Path("new"), "complexity", Path("old"))
    given = parser().parse_args(["augment", "gan", "--out", "set", "--count", "30", "--measure"])
    assert (given.model, given.out, given.count, given.repeats) == ("gan", Path("set"), 30, 3)


def conditional_model(folder: Path) -> Path:
    return trained_folder(folder, "GAN", classes=10, image=ImageShape(1, 8, 8))
