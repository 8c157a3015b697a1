"""docs/extending.md cannot rot: its newcomers are put where it says, into a copy of the package, and tried there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = re.findall(r"^`(src/[^`]+)`\n\n```(?:python|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = re.findall(
    r"^and its line in `(\w+)` of `([^`]+)`.*?\n\n```text\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?",
    PAGE,
    re.MULTILINE | re.DOTALL,
)
OPENING = {"METRICS": "    for metric in (\n"}  # the line after which a table's entries stand; else that of a dict
CONTRACTS = {
    "tests/networks/test_network_contract.py": "test_labels_change_the_output_and_are_asked_for[cosine-generator]",
    "tests/recipes/test_library.py": "test_a_density_tells_each_image_by_itself[moment-matching]",
    "tests/training/test_resume.py": "test_recipes_struck_and_resumed_end_with_the_same_bits[moment-matching]",
    "tests/evaluation/test_metrics.py": "test_settings_are_the_keywords_of_the_function[energy_distance]",
    "tests/docs/newcomers.py": "test_a_newcomer_is_trained_judged_and_gated",
}


def test_the_page_has_one_newcomer_of_each_kind() -> None:
    rooms = [Path(path).parent.relative_to("src/genforge").as_posix() for path, _ in FILES]
    modules = ["networks", "objectives", "samplers", "densities", "evaluation/measures", "evaluation/gates"]
    assert sorted(rooms) == sorted([*modules, "recipes"])
    tables = [table for table, *_ in LINES]
    assert sorted(tables) == sorted(["NETWORKS", "OBJECTIVES", "SAMPLERS", "DENSITIES", "METRICS", "GATES"])


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its tests, with the newcomers of the page. Of the library it has the new recipe alone,
    so that what runs over the library runs over that."""
    folder = tmp_path_factory.mktemp("grown")
    for name in ("src/genforge", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.yaml", "*.so"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, text in FILES:
        assert not (folder / path).exists()
        (folder / path).write_text(text)
    for table, path, line, imported in LINES:
        source = (folder / path).read_text()
        opening = OPENING.get(table, f"{table}: dict[str, str] = {{\n")
        assert source.count(opening) == 1
        source = source.replace(opening, opening + line)
        (folder / path).write_text(source.replace("\nfrom genforge", f"\n{imported}from genforge", 1))
    return folder


def test_newcomers_pass_the_contract_tests_and_train(grown: Path) -> None:
    wanted = "cosine-generator or moment-matching or energy_distance or newcomer"
    command = [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", "-k", wanted, *CONTRACTS]
    environment = {**os.environ, "PYTHONPATH": f"{grown / 'src'}{os.pathsep}{grown}"}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    done = subprocess.run(command, cwd=grown, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    for file, test in CONTRACTS.items():
        assert f"PASSED {file}::{test}\n" in done.stdout


def test_newcomers_are_written_as_the_house_writes(grown: Path) -> None:
    new = [path for path, _ in FILES if path.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(["ruff", *command, *new], cwd=grown, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
