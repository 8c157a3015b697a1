"""Run by test_extending.py in a copy of the package that has the newcomers of docs/extending.md."""

from __future__ import annotations

from pathlib import Path

import yaml

from genforge.files import read_array, read_json
from genforge.steps import draw, evaluate, extractor, gates, ingest, prepare, resolve, sample, search, train
from genforge.steps.project import Project

SETTINGS = {
    "device": "cpu",
    "data": {"name": "tins", "source": "tins", "count": 200, "image_size": 8},
    "extractor": {"steps": 10, "width": 8},
    "evaluation": {"images": 50, "metrics": ["fid", "energy_distance"]},
    "search": {"trials": 0},
    "gates": {"finite": {}, "brightness": {"limit": 0.001, "reason": "nothing is as bright as that"}},
    "recipes": {"moments": {"from": "moment-matching", "training": {"steps": 20}}},
}


def test_a_newcomer_is_trained_judged_and_gated(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
    project = Project.load(tmp_path)
    for step in (resolve, ingest, prepare, extractor):
        step.run(project)
    for step in (search, train, sample, evaluate):
        step.run(project, "moments")
    gates.run(project)
    result = read_json(project.evaluation("moments"))
    assert result["family"] == "moments"
    assert result["metrics"]["energy_distance"]["mean"] > 0
    assert result["likelihood"]["how"] == "windows of 0.2 around 500 drawn images"
    verdict = {entry["name"]: entry for entry in read_json(project.gates / "moments.json")["gates"]}
    assert verdict["finite"]["passed"] and not verdict["brightness"]["passed"]
    assert verdict["brightness"]["reason"] == "nothing is as bright as that"
    draw.draw("results/models/moments", 7, 3, tmp_path / "drawn.npy", tmp_path)
    assert read_array(tmp_path / "drawn.npy").shape == (7, 8, 8, 3)
