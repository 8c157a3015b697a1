"""What a registered version keeps of its images' origin."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from genforge.steps.lineage import tags
from genforge.steps.project import Project


def test_of_a_users_images_the_folder_is_told_with_its_digest(tmp_path: Path) -> None:
    data = {"name": "flowers", "source": "image_folder", "folder": "my-flowers", "image_size": 16, "channels": 3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"data": data, "recipes": {"box": {"from": "box"}}}))
    outs, deps = [{"path": "data/raw", "md5": "aa.dir"}], [{"path": "my-flowers", "md5": "bb.dir"}]
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"ingest": {"deps": deps, "outs": outs}}}))
    project = Project.load(tmp_path)
    project.prepared.mkdir(parents=True)
    card = {"splits": {"train": 1100, "test": 50}, "counts": {"inputs": 1200}}
    (project.prepared / "card.json").write_text(json.dumps(card))
    kept = tags(project, "box")
    assert kept["source"] == "my-flowers, 1,200 images" and kept["splits"] == "train 1,100, test 50"
    assert kept["raw"] == "aa.dir" and kept["incoming"] == "bb.dir"
