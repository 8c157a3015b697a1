"""The step `ingest` leaves `data/raw` whole, or as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from genforge.config import Config
from genforge.files import read_json
from genforge.settings import UserError
from genforge.steps import ingest
from genforge.steps.project import Project


def project(root: Path, **data: object) -> Project:
    return Project(root, Config.read({"data": data, "recipes": {"gan": {"from": "hinge-sngan"}}}, ""))


def test_it_writes_the_raw_data(tmp_path: Path) -> None:
    ingest.run(project(tmp_path))
    assert read_json(tmp_path / "data" / "raw" / "source.json")["parts"] == {"all": 1797}


def test_a_failure_leaves_what_stood_there(tmp_path: Path) -> None:
    ingest.run(project(tmp_path))
    with pytest.raises(UserError, match=r"data\.folder"):
        ingest.run(project(tmp_path, source="image_folder", folder="nowhere"))
    assert read_json(tmp_path / "data" / "raw" / "source.json")["source"] == "digits"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["raw"]
