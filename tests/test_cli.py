"""The command line as a person meets it: help at once, mistakes in words, JSON for programs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from genforge import catalog, cli
from genforge.cli import COMMANDS
from genforge.commands.pipeline import STEPS

ROOT = Path(__file__).parents[1]


def genforge(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command in this process: what it prints, and its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(arguments)
        except SystemExit as end:  # argparse ends so
            status = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def assert_told_without_traceback(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for part in parts:
        assert part in result.stderr


def test_help_names_every_command() -> None:
    result = genforge("--help")
    assert result.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    result = genforge(command, "--help")
    assert result.returncode == 0
    assert COMMANDS[command].help.split(",")[0][1:] in result.stdout.replace("\n", " ").replace("  ", " ")


def test_every_step_of_the_command_line_is_a_step_of_the_pipeline() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    for step in STEPS:
        assert f"cmd: genforge step {step}" in text
        assert (ROOT / "src" / "genforge" / "steps" / f"{step}.py").is_file()


def test_recipes_are_listed_for_people_and_for_programs() -> None:
    rows = json.loads(genforge("recipes", "--json").stdout)
    names = {row["name"] for row in rows}
    assert {"hinge-sngan", "vae", "ddpm", "box", "gaussian", "mixture"} <= names
    assert all(row["description"] and row["source"] and row["family"] for row in rows)
    table = genforge("recipes").stdout
    assert all(name in table for name in names) and len(table.splitlines()) == len(rows) + 3  # a line a recipe


def test_a_recipe_is_shown_as_it_is_written_and_with_every_setting() -> None:
    shown, full = (
        yaml.safe_load(genforge("recipes", "vae").stdout),
        json.loads(genforge("recipes", "vae", "--json").stdout),
    )
    assert shown == catalog.read_library("vae")
    for part in ("networks", "objective", "training"):  # nothing of the file is lost, and defaults join it
        assert catalog.merge(full[part], shown[part]) == full[part] != shown[part]
    assert_told_without_traceback(genforge("recipes", "vea"), "'vea'", "did you mean `vae`?")


def test_a_wrong_file_stops_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("sead: 1\nrecipes: {gan: {from: hinge-sngan}}\n")
    for step in STEPS:
        assert_told_without_traceback(genforge("step", step, cwd=tmp_path), "sead", "did you mean `seed`?")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("{from: hinge-sngam}", ["recipes.gan.from", "'hinge-sngam'", "did you mean `hinge-sngan`?"]),
        ("{from: vae, trainning: {steps: 5}}", ["recipes.gan.trainning", "did you mean `training`?"]),
        ("{from: vae, training: {step: 5}}", ["recipes.gan.training.step", "did you mean `steps`?"]),
        ("{from: vae, training: {steps: -5}}", ["recipes.gan.training.steps", "-5", "greater"]),
        ("{from: vae, training: {steps: lots}}", ["recipes.gan.training.steps", "'lots'", "integer"]),
        ("{from: vae, networks: {decoder: {name: dcgan}}}", ["networks.decoder.name", "'dcgan'", "dcgan-"]),
        ("{from: vae, networks: {decoder: {name: unet}}}", ["networks.decoder.name", "'unet'", "latent_to_image"]),
        ("{from: vae, sampler: {name: ddim}}", ["sampler.name", "'ddim'", "one-shot"]),
        ("{from: vae, networks: {dekoder: {name: dcgan-generator}}}", ["networks.dekoder", "did you mean `decoder`?"]),
        ("{from: vae, search: {space: {training.stepz: {low: 1, high: 2}}}}", ["training.stepz", "`steps`"]),
        ("{from: vae, search: {space: {description: {choices: [a, b]}}}}", ["'description'", "valid: networks"]),
        ("{from: vae, search: {space: {objective: {choices: [a, b]}}}}", ["'objective'", "single settings"]),
        ("{from: vae, search: {space: {training.steps: {low: 5, high: 9}}}}", ["'training.steps'", "every trial"]),
        (
            "{from: vae, search: {space: {training.rollbacks: {low: 1, high: 3}}}}",
            ["training.rollbacks", "take it out"],
        ),
        ("{from: vae, search: {space: {objective.beta: {low: -1, high: 3, log: false}}}}", ["try -1", "greater"]),
        ("{from: vae, search: {space: {objective.beta: {low: 0, high: 3}}}}", ["low above 0"]),
        ("{from: vae, search: {space: {training.ema: {choices: []}}}}", ["training.ema", "at least one"]),
        ("{from: vae, search: {space: {networks.decoder.width: {low: 8, high: 1000}}}}", ["try 1000", "512"]),
        (
            "{from: vae, objective: {beta: 9}, search: {space: {objective.beta: {low: 0.5, high: 4.0}}}}",
            ["search.space.objective.beta", "9", "from 0.5 to 4.0", "null"],
        ),
        (
            "{from: vae, search: {portfolio: [{objective.beto: 2}]}}",
            ["portfolio.0", "'objective.beto'", "objective.beta"],
        ),
        ("{from: vae, search: {portfolio: [{objective.beta: 9}]}}", ["0.objective.beta", "9", "from 0.5 to 4.0"]),
        ("{from: vae, search: {portfolio: {objective.beta: 2}}}", ["recipes.gan.search.portfolio"]),
        ("{from: vae, training: {players: {decoder: {learning_rate: 0.1}}}}", ["players.decoder", "autoencoder"]),
        ("{from: ddpm, sampler: {steps: 1001}}", ["sampler.steps", "1001", "1 to 1000"]),
        ("{from: box, networks: {network: {name: dcgan-generator}}}", ["fit themselves", "Generator"]),
        ("{from: vae, networks: {decoder: {name: box}}, search: null}", ["recipes.gan.search", "None"]),
        ("{from: hinge-sngan, networks: {genrator: {width: 8}}}", ["unknown role", "did you mean `generator`?"]),
        ("{from: hinge-sngan, networks: {generator: {name: box}}}", ["one more, 257, not 64", "closed-form"]),
        (
            "{from: ddpm, networks: {denoiser: {backbone: {name: dcgan-critic}}}}",
            ["denoiser.backbone.name", "image_to_vector", "unet"],
        ),
    ],
)
def test_a_wrong_recipe_is_told_with_its_nearest_name(tmp_path: Path, entry: str, parts: list[str]) -> None:
    (tmp_path / "params.yaml").write_text(f"recipes: {{gan: {entry}}}\n")
    assert_told_without_traceback(genforge("step", "resolve", cwd=tmp_path), *parts)
    assert_told_without_traceback(genforge("step", "ingest", cwd=tmp_path), *parts)  # it knows no recipe
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--jobs", "0"),
        ("run", "--jobs", "-2"),
        ("ui", "--port", "65536"),
        ("sample", "-n", "0"),
        ("sample", "--seed", "-1"),
        ("augment", "--seed", str(2**63)),
        ("drift", "--out", "drift.jpg"),
        ("drift", "--out", f"{__file__}/drift.png"),
        ("compare", "--out", __file__),
        ("latent", "--out", __file__),
    ],
)
def test_what_an_option_cannot_be_is_told_before_any_work(arguments: tuple[str, ...]) -> None:
    assert_told_without_traceback(genforge(*arguments), arguments[1], f"'{arguments[2]}'")


def test_no_command_begins_to_work_for_a_place_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = []
    for command, option, metavar in options_that_write():
        ending = Path(metavar).suffix
        for folder in (Path("/proc"), tmp_path / "file"):
            for path in (folder / f"new{ending}", folder / "folder" / f"new{ending}"):
                result = genforge(command, option, str(path), cwd=tmp_path)
                assert_told_without_traceback(result, option, repr(str(path)), f"made in {folder} ", "another place")
        asked.append(command)
    assert asked == ["preset", "compare", "drift", "sample", "latent", "augment", "anomaly", "lineage"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def options_that_write() -> Iterator[tuple[str, str, str]]:
    """Command, option and its metavar."""
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser()
        command.arguments(parser)
        for action in parser._actions:
            for option in {"--out", "--picture"} & set(action.option_strings):
                yield name, option, str(action.metavar or "")


def test_a_place_that_the_machine_refuses_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    (tmp_path / "results").write_text("a file in the place of a folder")
    assert_told_without_traceback(genforge("step", "resolve", cwd=tmp_path), "results", "name another place")


def test_a_folder_that_is_no_project_is_told_so(tmp_path: Path) -> None:
    missing = ("params.yaml does not exist", "genforge preset")
    assert_told_without_traceback(genforge("step", "prepare", cwd=tmp_path), *missing)
    assert_told_without_traceback(genforge("leaderboard", cwd=tmp_path), "params.yaml")
    assert_told_without_traceback(genforge("run", cwd=tmp_path), "pipelines/retrain.py")
    assert_told_without_traceback(genforge("step", "prepair", cwd=tmp_path), "prepair")
    assert_told_without_traceback(genforge("step", "prepare", "gan", cwd=tmp_path), "step prepare", "leave out 'gan'")


def test_a_result_that_is_not_there_yet_names_what_makes_it(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    assert_told_without_traceback(genforge("leaderboard", cwd=tmp_path), "leaderboard.json", "dvc repro")
    assert_told_without_traceback(genforge("step", "train", "gan", cwd=tmp_path), "gan.json")
    assert_told_without_traceback(genforge("step", "train", "gun", cwd=tmp_path), "'gun'", "did you mean `gan`?")
