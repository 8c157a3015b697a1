"""The whole pipeline on points of the plane, from drawing them to the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from genforge import scatter
from genforge.files import read_array, read_json
from genforge.pictures import save_png
from genforge.settings import UserError
from genforge.steps import (
    averages,
    compare,
    draw,
    drift,
    edit,
    evaluate,
    extractor,
    ingest,
    latent,
    prepare,
    rank,
    report,
    resolve,
    sample,
    samplers,
    search,
    train,
)
from genforge.steps.judge import judge
from genforge.steps.project import Project

SETTINGS = {
    "device": "cpu",
    "data": {"name": "ring", "source": "points", "shape": "ring", "count": 600},
    "evaluation": {"images": 60},
    "search": {"trials": 0},
    "recipes": {
        "mixture": {"from": "mixture", "networks": {"network": {"components": 8}}},
        "flow": {
            "from": "flow-matching-points",
            "training": {"steps": 6, "averages": {"snapshots": 2}},
            "sampler": {"steps": 2},
            "density": {"steps": 1},
        },
        "coder": {
            "from": "vae-mlp",
            "networks": {"pixels": {"name": "gaussian-pixels"}},
            "objective": {"latent_size": 2},
            "density": {"samples": 2},
            "training": {"steps": 6},
            "search": {"space": {"objective.latent_size": None}, "portfolio": []},
        },
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> Project:
    root = tmp_path_factory.mktemp("points")
    (root / new_store.name).write_bytes(new_store.read_bytes())
    (root / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
    project = Project.load(root)
    for step in (resolve, ingest, prepare, extractor):
        step.run(project)
    for name in SETTINGS["recipes"]:
        for step in (search, train, sample, evaluate):
            step.run(project, name)
    evaluate.run(project, "floor")
    for step in (rank, report):
        step.run(project)
    return project


def test_points_are_judged_and_ranked_as_points(project: Project) -> None:
    board = read_json(project.leaderboard)
    assert board["metric"] == "mind" and board["protocol"]["extractor"] == "coordinates"
    rows = {row["name"]: row["metrics"] for row in board["rows"]}
    assert rows["mixture"]["modes"]["mean"] == 1.0 == rows["floor"]["modes"]["mean"]
    assert rows["mixture"]["mind"]["mean"] < rows["flow"]["mind"]["mean"]  # which has learned for six steps
    assert (project.report / "index.html").is_file()


def test_pictures_have_dots_and_real_points_beside(project: Project) -> None:
    beside = (2 * scatter.SIDE + scatter.GAP, scatter.SIDE + scatter.TITLE)
    for path in (project.samples("flow") / "grid.png", project.model("flow") / "samples.png"):
        assert Image.open(path).size == beside
    assert Image.open(project.model("flow") / "filmstrip.png").size[0] > 3 * scatter.SIDE
    for name in ("mixture", "flow"):
        assert Image.open(project.model(name) / "density.png").size == beside
        assert read_json(project.evaluation(name))["likelihood"]["protocol"]["of"] == "points of the plane"
    assert Image.open(project.prepared / "samples.png").size == (scatter.SIDE, scatter.SIDE)


def test_points_are_drawn_and_judged_by_hand(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "points.npy"
    draw.draw("results/models/mixture", 80, 5, out, project.root)
    points = read_array(out)
    assert points.shape == (80, 1, 1, 2) and points.dtype == np.float32
    np.save(tmp_path / "flat.npy", points.reshape(80, 2))
    assert judge(project, tmp_path / "flat.npy")["metrics"] == judge(project, out)["metrics"]
    draw.draw("results/models/mixture", 80, 5, tmp_path / "points.png", project.root)
    assert Image.open(tmp_path / "points.png").size == (scatter.SIDE, scatter.SIDE)
    with pytest.raises(UserError, match=r"\.png"):
        draw.draw("results/models/mixture", 3, 5, tmp_path / "folder", project.root)
    with pytest.raises(UserError, match=r"\.npy"):
        judge(project, tmp_path)


def test_models_of_points_are_compared_and_seen(project: Project) -> None:
    told = compare.compare(project, "mixture", "flow")
    for picture in ("first.png", "second.png"):
        assert Image.open(Path(told["page"]).parent / picture).size == (scatter.SIDE, scatter.SIDE)
    found = samplers.compare(project, "flow", [2], ["heun", "euler"])
    assert len(found.cells) == 2
    (drawn,) = project.results.rglob("heun-2.npy")
    assert read_array(drawn).shape == (60, 1, 1, 2) and (drawn.parent.parent / "samplers.png").is_file()
    with pytest.raises(UserError, match="points of the plane, and drift is looked for in images alone"):
        drift.drift(project, project.prepared / "test-images.npy", project.root / "drift.png")
    averages.compare(project, "flow", [0.1])
    panels = Image.open(project.averages("flow") / "samples.png").size
    assert panels == (2 * scatter.SIDE + scatter.GAP, scatter.SIDE + scatter.TITLE)


def test_what_is_only_of_pictures_is_told(project: Project, tmp_path: Path) -> None:
    save_png(tmp_path / "photo.png", np.zeros((8, 8, 3), np.uint8))
    request = edit.Request(tmp_path / "photo.png")
    with pytest.raises(UserError, match="draws points of the plane, and what is gone on from"):
        edit.edit("results/models/flow", request, 1, 0, tmp_path / "out.png", project.root)
    with pytest.raises(UserError, match="draws points of the plane, whose way"):
        draw.draw_trajectory("results/models/flow", 2, 3, 0, tmp_path / "out.png", project.root)


def test_an_autoencoder_of_points_gives_back_points(project: Project, tmp_path: Path) -> None:
    known = latent.show(project, "coder", tmp_path / "first", encode=True)
    latent.show(project, "coder", tmp_path / "second", decode=tmp_path / "first" / "codes.npy")
    back, points = read_array(tmp_path / "second" / "decoded.npy"), read_array(project.prepared / "test-images.npy")
    assert back.dtype == np.float32 and back.shape == points.shape
    assert known["reconstruction_error"] == pytest.approx(np.square(back - points).mean(), rel=1e-5)
    assert read_json(project.evaluation("coder"))["latent_space"] == known


def test_a_network_of_images_is_refused_before_any_work(project: Project) -> None:
    (project.root / "params.yaml").write_text(yaml.safe_dump({**SETTINGS, "recipes": {"gan": {"from": "dcgan"}}}))
    try:
        with pytest.raises(UserError, match=r"recipes\.gan.*points of the plane.*mlp-generator"):
            resolve.run(Project.load(project.root))
    finally:
        (project.root / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
