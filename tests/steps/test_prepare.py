"""The step `prepare` on the embedded digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from genforge.config import Config
from genforge.data.loading import Prepared
from genforge.settings import UserError
from genforge.steps import ingest, prepare
from genforge.steps.project import Project


def project(root: Path, images: int = 500) -> Project:
    document = {"evaluation": {"images": images}, "recipes": {"gan": {"from": "hinge-sngan"}}}
    return Project(root, Config.read(document, ""))


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    ingest.run(project(tmp_path))
    found = []
    for _ in range(2):
        prepare.run(project(tmp_path))
        found.append({path.name: path.read_bytes() for path in (tmp_path / "data" / "prepared").iterdir()})
    assert found[0] == found[1]
    arrays = {f"{split}-{what}.npy" for split in ("train", "validation", "test") for what in ("images", "labels")}
    assert set(found[0]) == arrays | {"card.json", "manifest.parquet", "samples.png"}
    assert Prepared.open(project(tmp_path).prepared).classes == tuple("0123456789")


def test_it_refuses_a_test_split_that_the_judge_cannot_use(tmp_path: Path) -> None:
    ingest.run(project(tmp_path))
    with pytest.raises(UserError, match=r"set evaluation\.images to 5"):
        prepare.run(project(tmp_path, images=1000))
    assert not (tmp_path / "data" / "prepared").exists()
