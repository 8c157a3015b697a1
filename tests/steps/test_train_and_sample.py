"""From params.yaml to a model's folder and its samples, on real digits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genforge.catalog import target
from genforge.data.loading import Prepared
from genforge.files import read_array, read_json, write_array, write_json
from genforge.models import load
from genforge.pictures import a_row_a_class, grid
from genforge.settings import UserError
from genforge.steps import ingest, latent, prepare, resolve, sample, train
from genforge.steps.likelihood import likelihood_of
from genforge.steps.project import Project

PARAMS = """
data: {name: digits, source: digits}
evaluation: {images: 60, batch_size: 25}
recipes:
  vae: {from: vae, training: {steps: 30, batch_size: 16, checkpoint_every: 8, log_every: 5}}
  labelled:
    from: vae
    objective: {conditional: true}
    training: {steps: 4, batch_size: 16}
  box: {from: box}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(PARAMS)
    ingest.run(Project.load(root))
    prepare.run(Project.load(root))
    return root


@pytest.fixture
def project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("GENFORGE_UPLOADER", "off")
    project = Project.load(root)
    resolve.run(project)
    return project


def test_recipes_are_written_in_full_with_the_digest_of_their_code(project: Project) -> None:
    files = {name: read_json(project.recipe_file(name)) for name in project.config.recipes}
    assert [file["family"] for file in files.values()] == ["VAE", "VAE", "baseline"]
    assert files["vae"]["recipe"]["training"]["batch_size"] == 16
    assert files["vae"]["code"] == files["labelled"]["code"] != files["box"]["code"]
    assert project.recipe("labelled").objective["conditional"] is True


def test_a_trained_folder_draws_the_pictures_that_lie_in_it(project: Project) -> None:
    train.run(project, "vae")
    folder = project.model("vae")
    assert sorted(path.name for path in folder.iterdir()) == [
        "companions.safetensors",
        "curves.csv",
        "filmstrip.png",
        "interpolation.png",
        *(f"latent-{name}.png" for name in ("arithmetic", "interpolations", "reconstructions", "traversals")),
        "model.json",
        "samples.png",
        "weights.safetensors",
    ]
    model = load(folder, target)
    pixels = np.asarray(Image.open(folder / "samples.png"))[::6, ::6]  # 8x8 images are shown six times as large
    for place, image in enumerate(model.draw(0, 64)):
        top, left = place // 8 * 9, place % 8 * 9
        assert np.array_equal(pixels[top : top + 8, left : left + 8], image[..., 0])
    film = np.asarray(Image.open(folder / "filmstrip.png"))[::6, ::6]
    assert film.shape == (5 * 9 - 1, 8 * 9 - 1)
    assert np.array_equal(film[-8:], pixels[:8]), "the last row of the film is the finished model"
    card = model.card
    assert (card["name"], card["family"], card["origin"], card["steps"]) == ("vae", "VAE", "vae", 30)
    assert card["images_seen"] == 30 * 16
    assert card["parameters"] == sum(weight.numel() for weight in model.network.parameters())
    assert card["data"] == {"name": "digits", "digest": read_json(project.prepared / "card.json")["digest"]}
    rows = list(csv.DictReader((folder / "curves.csv").open()))
    assert {"5", "30"} <= {row["step"] for row in rows}
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert project.curves("vae").read_text() == (folder / "curves.csv").read_text()


def test_what_the_search_found_is_used_and_starts_afresh(project: Project) -> None:
    train.run(project, "vae")
    (before,) = (project.state / "checkpoints" / "vae").iterdir()
    write_json(project.search("vae") / "best.json", {"settings": {"objective.latent_size": 5}, "value": 1.0})
    try:
        train.run(project, "vae")
        assert load(project.model("vae"), target).network.port.latent_size == 5
        (after,) = (project.state / "checkpoints" / "vae").iterdir()
        assert before != after, "checkpoints of other inputs are not used, and are removed"
    finally:
        (project.search("vae") / "best.json").unlink()


def test_samples_are_the_same_images_at_any_batch_size(project: Project) -> None:
    train.run(project, "box")
    sample.run(project, "box")
    folder = project.samples("box")
    card = json.loads((folder / "card.json").read_text())
    assert (card["images"], card["seeds"]) == (60, [0, 1, 2])
    assert card["seconds"] > 0 and card["images_per_second"] == pytest.approx(180 / card["seconds"])
    model = load(project.model("box"), target)
    for seed in (0, 1, 2):
        images = read_array(folder / f"seed-{seed}.npy")
        assert images.dtype == np.uint8 and images.shape == (60, 8, 8, 1)
        assert np.array_equal(images, model.draw(seed, 60, batch_size=60))
    assert (folder / "grid.png").is_file() and not (folder / "labels.npy").exists()


def test_a_recipe_with_a_density_tells_likelihoods_of_held_out_images(project: Project) -> None:
    train.run(project, "box")
    found = likelihood_of(project, "box", load(project.model("box"), target, companions=True))
    assert found is not None and found.exact
    assert found.protocol.images == 539 and found.protocol.split == "test"
    assert 2.0 < found.bits < 8.1
    again = likelihood_of(project, "box", load(project.model("box"), target, companions=True))
    assert again == found


def test_a_recipe_without_a_density_tells_none(project: Project) -> None:
    settings = {"density": None}
    bare = Project(project.root, project.config.model_copy(update={"recipes": {"box": {"from": "box", **settings}}}))
    resolve.run(bare)
    train.run(bare, "box")
    model = load(bare.model("box"), target, companions=True)
    assert model.density is None and likelihood_of(bare, "box", model) is None


def test_the_latent_space_of_a_trained_model_is_shown_encoded_and_decoded(project: Project, tmp_path: Path) -> None:
    train.run(project, "vae")
    known = latent.show(project, "vae", tmp_path, encode=True)
    assert known == read_json(tmp_path / "latent.json") and known["images"] == 539 and len(known["spread"]) == 8
    assert 0 < known["reconstruction_error"] < 1 and "disentanglement" not in known
    for name in ("arithmetic", "interpolations", "reconstructions", "traversals"):
        written = (tmp_path / f"{name}.png").read_bytes()
        assert written == (project.model("vae") / f"latent-{name}.png").read_bytes()
    codes = read_array(tmp_path / "codes.npy")
    assert codes.shape == (539, 8) and codes.dtype == np.float32
    latent.show(project, str(project.model("vae")), tmp_path, decode=tmp_path / "codes.npy")
    decoded, real = read_array(tmp_path / "decoded.npy"), Prepared.open(project.prepared).images("test")
    error = np.square(decoded.astype(float) - real).mean() / 127.5**2
    assert error == pytest.approx(known["reconstruction_error"], rel=1e-3)
    write_array(tmp_path / "codes.npy", codes[:, :5])
    with pytest.raises(UserError, match=r"holds float32 \(539, 5\); it should be finite floats \(n, 8\)"):
        latent.show(project, "vae", tmp_path, decode=tmp_path / "codes.npy")
    train.run(project, "box")
    with pytest.raises(UserError, match="has no encoder"):
        latent.show(project, "box", tmp_path)
    with pytest.raises(UserError, match="'vea' is no trained model here"):
        latent.show(project, "vea", tmp_path)


def test_a_conditional_model_draws_the_datas_classes(project: Project) -> None:
    train.run(project, "labelled")
    sample.run(project, "labelled")
    labels = read_array(project.samples("labelled") / "labels.npy")
    real = np.bincount(read_array(project.prepared / "train-labels.npy"), minlength=10)
    drawn = np.bincount(labels, minlength=10)
    assert np.abs(drawn / 60 - real / real.sum()).max() <= 1 / 60

    # People see a row a class: on the page (grid.png), in the model's folder, and as an image of the run.
    images = read_array(project.samples("labelled") / "seed-0.npy")
    page = np.asarray(Image.open(project.samples("labelled") / "grid.png"))
    assert np.array_equal(page, a_row_a_class(images, labels)[..., 0])
    pixels = np.asarray(Image.open(project.model("labelled") / "samples.png"))[::6, ::6]
    assert pixels.shape == (10 * 9 - 1, 8 * 9 - 1)
    threes = load(project.model("labelled"), target).draw(0, 80, labels=torch.arange(10).repeat_interleave(8))[24:32]
    assert np.array_equal(pixels[27:35], grid(threes, 8, enlarged=False)[..., 0])
    (logged,) = project.root.rglob("classes-00000004-*.png")
    assert logged.read_bytes() == (project.model("labelled") / "samples.png").read_bytes()


def test_a_recipe_that_is_not_there_is_named_with_its_nearest(project: Project) -> None:
    with pytest.raises(UserError, match="did you mean `vae`"):
        train.run(project, "vea")
    with pytest.raises(UserError, match="name a recipe"):
        sample.run(project)
