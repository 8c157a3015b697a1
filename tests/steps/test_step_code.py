"""An edit of a file makes those stages stale whose step uses it, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from genforge import imports
from genforge.steps import code

JUDGES = {"search", "evaluate", "floor", "gates", "register"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of this package's source, which is read in place of it."""
    folder = tmp_path_factory.mktemp("source") / "genforge"
    shutil.copytree(imports.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(imports, "PACKAGE", folder)
        yield folder


@pytest.fixture(scope="module")
def before(package: Path) -> dict[str, dict[str, str]]:
    return {stage: code.digests(stage) for stage in code.STAGES}


@pytest.mark.parametrize(
    ("edited", "stale"),
    [
        ("evaluation/fidelity.py", JUDGES),
        ("evaluation/inception.py", JUDGES | {"extractor"}),
        ("evaluation/leaderboard.py", {"gates", "rank", "report", "register"}),
        ("evaluation/gates/coverage.py", {"gates", "register"}),
        ("densities/flow.py", {"evaluate"}),
        ("search/worker.py", {"search"}),
        ("report/page.html", {"report"}),
        ("samplers/drawing.py", {"train"}),
        ("steps/sample.py", {"sample"}),
        ("training/loop.py", {"extractor"}),  # of recipes, it stands in the recipe's digest
        ("networks/unet.py", set()),  # so do these
        ("networks/denoiser.py", set()),
        ("tracking/runs.py", set()),
        ("search/dashboard.py", set()),
    ],
)
def test_an_edit_changes_the_digests_of_what_uses_it_alone(
    before: dict[str, dict[str, str]], package: Path, edited: str, stale: set[str]
) -> None:
    content = (package / edited).read_text()
    (package / edited).write_text(content + "\n")
    changed = {stage for stage in code.STAGES if code.digests(stage) != before[stage]}
    (package / edited).write_text(content)
    assert changed == stale


def test_a_new_file_is_watched_as_soon_as_it_is_imported(before: dict[str, dict[str, str]], package: Path) -> None:
    novel, rank = package / "evaluation" / "novel.py", package / "steps" / "rank.py"
    content = rank.read_text()
    novel.write_text("LIMIT = 1\n")
    assert all(code.digests(stage) == before[stage] for stage in code.STAGES)
    rank.write_text("import genforge.evaluation.novel\n")
    imports._imported.cache_clear()
    watched = code.digests("rank")
    # The copy is all tests' of this file, and workers run them in any order.
    rank.write_text(content)
    novel.unlink()
    imports._imported.cache_clear()
    assert "genforge.evaluation.novel" in watched


def test_names_that_stages_begin_from_and_spare_are_there() -> None:
    for stage, about in code.STAGES.items():
        for module in (*about.begins, *about.spared, *code.PLUMBING):
            path = imports.PACKAGE.joinpath(*module.split("."))
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{stage}: {module}"
