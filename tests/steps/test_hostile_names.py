"""Names from outside, of files, classes and recipes, are names everywhere: no shell and no page takes them for more."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from genforge import cli
from genforge.config import load as load_config
from genforge.data.loading import Prepared
from genforge.settings import UserError
from genforge.steps import ingest, prepare
from genforge.steps.project import Project

HOSTILE = [
    "$(touch owned)",
    "`touch owned`",
    "; touch owned;",
    "| touch owned",
    "a\nb\ttouch owned",
    "--help",
    "<script>alert(1)</script>".replace("/", "\u2215"),
    "\x1b[31mred\x1b[0m",
    "'; DROP TABLE runs; --",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "%s%n${HOME}",
    "\u202egnp.exe",
]


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Classes with hostile names, of files with hostile names, in a folder with a hostile name."""
    folder = tmp_path / "$(touch owned) `touch owned`; x"
    for number, name in enumerate(HOSTILE):
        (folder / name).mkdir(parents=True)
        for file, other in enumerate(HOSTILE):
            (folder / name / f"{other}.png").write_bytes(png(100 * number + file))
    (Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(HOSTILE[0]) + b"/\xff\xfe.png"))).write_bytes(png(9999))
    quoted = str(folder.name).replace("'", "''")
    (tmp_path / "params.yaml").write_text(
        f"data: {{source: image_folder, folder: '{quoted}'}}\n"
        f"evaluation: {{images: 50}}\nrecipes: {{gan: {{from: hinge-sngan}}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, load_config(tmp_path / "params.yaml"))


def test_hostile_file_and_class_names_are_prepared_as_they_are(project: Project) -> None:
    ingest.run(project)
    prepare.run(project)
    data = Prepared.open(project.prepared)
    assert set(data.classes) == set(HOSTILE)
    assert data.card["counts"]["kept"] == len(HOSTILE) ** 2
    manifest = pl.read_parquet(project.prepared / "manifest.parquet")
    put_aside = manifest.filter(verdict="quarantined")
    assert [(row["reason"], row["path"].endswith("\\xff\\xfe.png")) for row in put_aside.to_dicts()] == [
        ("missing", True)
    ]
    assert not list(project.root.rglob("owned"))


def test_a_hostile_name_is_quoted_where_it_is_told(project: Project) -> None:
    for path in project.source_folder.rglob("*.png"):
        path.write_bytes(b"broken")
    ingest.run(project)
    with pytest.raises(UserError) as caught:
        prepare.run(project)
    assert "\x1b" not in str(caught.value)


def test_the_page_escapes_whatever_it_is_given() -> None:
    from genforge.report import page

    environment = page._template().environment
    for name in HOSTILE:
        shown = environment.from_string("<p title='{{ x }}'>{{ x }}</p>").render(x=name)
        assert "<script" not in shown and "<img" not in shown and shown.count("'") == 2
    source = (Path(page.__file__).parent / "page.html").read_text()
    assert "|safe" not in source.replace(" ", "") and "autoescape" not in source


@pytest.mark.parametrize("name", [*HOSTILE, "../../owned", "a b", "A", "\u00e9", "gan\n"])
def test_a_recipe_or_data_set_with_a_hostile_name_is_refused_before_any_work(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    monkeypatch.chdir(tmp_path)
    for settings in (
        {"recipes": {name: {"from": "hinge-sngan"}}},
        {"data": {"name": name}, "recipes": {"gan": {"from": "hinge-sngan"}}},
    ):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
        assert cli.main(["step", "resolve"]) == 2
        assert "lower case letters, digits and dashes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
