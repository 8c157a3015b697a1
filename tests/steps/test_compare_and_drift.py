"""Two models beside each other, and images beside the data: on the command line, as a page, as a picture."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from genforge import cli
from genforge.files import read_array, write_array
from genforge.steps import drift
from genforge.steps.project import Project
from tests.trained_models import trained_folder

SETTINGS = {
    "evaluation": {"images": 60},
    "extractor": {"steps": 60, "width": 8},
    "recipes": {name: {"from": "hinge-sngan"} for name in ("gan", "twin", "other")},
}


@pytest.fixture
def project(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tracked / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
    monkeypatch.chdir(tracked)
    project = Project.load(tracked)
    for name in ("ingest", "prepare", "extractor"):
        importlib.import_module(f"genforge.steps.{name}").run(project)
    trained_folder(project.model("gan"), "gan", "gan", 0)
    trained_folder(project.model("other"), "gan", "other", 5)
    shutil.copytree(project.model("gan"), project.model("twin"))
    return project


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:  # type: ignore[type-arg]
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_comparing_and_looking_for_drift(project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # The same weights under two names: no difference, and nobody is better.
    same = told(capsys, "compare", "gan", "twin")
    assert set(same["metrics"]) == {"fid", "kid", "precision", "recall", "coverage"}
    assert all(found["difference"] == 0.0 and found["probability"] == 0.5 for found in same["metrics"].values())
    assert "neither is surely better" in same["words"]

    # Turned round, a difference changes its sign and a probability its side.
    one, other = told(capsys, "compare", "gan", "other"), told(capsys, "compare", "other", "gan")
    for name, found in one["metrics"].items():
        assert found["difference"] == pytest.approx(-other["metrics"][name]["difference"])
        assert found["probability"] == pytest.approx(1.0 - other["metrics"][name]["probability"], abs=1e-9)
    page = Path(one["page"])
    assert "first is better with probability" in page.read_text() and "<script" not in page.read_text()
    for picture in ("first.png", "second.png", "differences.png"):
        with Image.open(page.parent / picture) as image:
            assert image.format == "PNG"
    assert cli.main(["compare", str(project.model("gan")), "twin", "--out", str(tmp_path / "page")]) == 0
    assert "first is better" in capsys.readouterr().out and (tmp_path / "page" / "comparison.json").is_file()
    assert cli.main(["compare", "gan", "gan"]) == 2
    (tmp_path / "page" / "comparison.json").rename(tmp_path / "page" / "mine.json")
    capsys.readouterr()
    assert cli.main(["compare", "gan", "twin", "--out", str(tmp_path / "page")]) == 2
    assert "not an empty folder" in capsys.readouterr().err and (tmp_path / "page" / "mine.json").is_file()

    # Held-out images of the same data are no drift; the same upside down and inverted are.
    held_out = read_array(project.prepared / "test-images.npy")
    others = read_array(project.prepared / "validation-images.npy")
    write_array(tmp_path / "same.npy", others)
    write_array(tmp_path / "turned.npy", np.ascontiguousarray(255 - others[:, ::-1]))
    assert not told(capsys, "drift", "same.npy")["drifted"]
    found = told(capsys, "drift", "turned.npy", "--out", "turned.png")
    assert (
        found["drifted"]
        and found["p_value"] == 0.001
        and (found["new"], found["known"])
        == (
            len(others),
            len(held_out),
        )
    )
    with Image.open(tmp_path / "turned.png") as image:
        assert image.width > 800
    write_array(tmp_path / "few.npy", others[:5])
    assert cli.main(["drift", "few.npy"]) == 2
    assert "5 new images" in capsys.readouterr().err


def test_new_images_are_those_whose_contents_are_new(project: Project, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(project.prepared, before)
    assert len(drift.new_images(project.prepared, before)) == 0
    images = read_array(project.prepared / "test-images.npy")
    images[:7] = 255 - images[:7]
    write_array(project.prepared / "test-images.npy", images)
    found = drift.new_images(project.prepared, before)
    assert np.array_equal(found, images[:7])
