"""What README.md shows is there: every command is one that exists with these arguments, every path and picture is real.

The commands themselves are run by tests/pipelines: `test_story.py` and `test_retrain.py`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from genforge import catalog, cli, config
from pipelines.stages import check_watched_keys

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every line of every fenced block without a language, split at `;`, without its comment."""
    found = []
    for document in DOCUMENTS:
        inside: str | None = None  # the language of the block that the line stands in
        for line in document.read_text().splitlines():
            if line.startswith("```"):
                inside = line[3:] if inside is None else None
            elif inside == "":
                found += [part.strip() for part in re.sub(r"\s+#.*", "", line).split(";") if part.strip()]
    return found


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_exists_with_these_arguments(command: str) -> None:
    words = shlex.split(command)
    match words[0]:
        case "genforge":
            cli.parser().parse_args(words[1:])
        case "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case "dvc":
            known = subprocess.run([sys.executable, "-m", "dvc", *words[1:2], "--help"], capture_output=True, text=True)
            assert known.returncode == 0
        case "mlflow":
            from mlflow.cli import cli as mlflow_cli  # its own process would import all of it again

            asked_for = mlflow_cli.commands[words[1]].commands[words[2]]
            known = {option for parameter in asked_for.params for option in parameter.opts}
            assert known >= {word for word in words if word.startswith("--")}
        case "git":
            assert words[1] in ("add", "commit", "merge", "log")
        case "python" if words[1].endswith(".py"):
            assert f"`{words[1]}`" in (ROOT / "docs" / "tutorial.md").read_text()  # which the reader wrote there
        case "python":
            assert words[1] == "-m" and words[2].startswith("pipelines.")
            options = [word for word in words[3:] if word.startswith("--")]
            code = (ROOT / f"{words[2].replace('.', '/')}.py").read_text()
            assert all(f'"{option}"' in code for option in options)
        case "torchrun":
            from torch.distributed.run import parse_args

            asked = parse_args(words[1:])
            assert asked.module and asked.training_script == "genforge.cli"
            cli.parser().parse_args(asked.training_script_args)
        case "pytest":
            paths = words[1 : words.index("-k")]
            assert paths and all((ROOT / path).exists() for path in paths)
        case "prefect":
            assert words[1:3] in (["server", "start"], ["worker", "start"])  # to ask Prefect itself takes seconds
        case _:
            assert words[0] in (".", "$EDITOR")


def headings(document: Path) -> list[str]:
    """Of a page, as links name them: lower case, with dashes for spaces, without points."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_and_picture_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if not link.startswith(("http://", "https://", "#")):
            path, _, heading = link.partition("#")
            assert (document.parent / path).exists(), link
            assert not heading or heading in headings(document.parent / path), link


def test_every_dependency_is_explained() -> None:
    names = re.findall(
        r'^  "([A-Za-z0-9-]+)[^"]*",', (ROOT / "pyproject.toml").read_text().split("[project.optional")[0], re.M
    )
    table = (ROOT / "README.md").read_text().split("## What each dependency is for")[1]
    missing = [name for name in names if name not in table]
    assert len(names) > 15 and not missing


def test_every_params_file_shown_is_valid(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    shown = [
        block
        for document in DOCUMENTS
        for block in re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
        if "recipes:" in block
    ]
    assert shown
    for block in shown:
        settings = config.Config.read(yaml.safe_load(block), "")
        assert catalog.resolve_all(settings.recipes).keys() == settings.recipes.keys()
        if "seed" in yaml.safe_load(block):  # a whole one, that is to run as it is
            (tmp_path / "params.yaml").write_text(block)
            check_watched_keys(tmp_path)
