"""The whole pipeline on points of the plane, from drawing them to the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from genforge import scatter
from genforge.files import read_array, read_json
from genforge.settings import UserError
from genforge.steps import draw, evaluate, extractor, ingest, prepare, rank, report, resolve, sample, search, train
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
            "training": {"steps": 6},
            "sampler": {"steps": 2},
            "density": {"steps": 1},
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


def test_a_network_of_images_is_refused_before_any_work(project: Project) -> None:
    (project.root / "params.yaml").write_text(yaml.safe_dump({**SETTINGS, "recipes": {"gan": {"from": "dcgan"}}}))
    try:
        with pytest.raises(UserError, match=r"recipes\.gan.*points of the plane.*mlp-generator"):
            resolve.run(Project.load(project.root))
    finally:
        (project.root / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
