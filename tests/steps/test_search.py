"""The step `search`: nothing for a recipe without a space, and a real search on real digits for one with it."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from genforge import catalog
from genforge.dimension import Dimension
from genforge.files import read_json
from genforge.randomness import derive
from genforge.search.plan import Found, Plan, Row
from genforge.settings import UserError
from genforge.steps import resolve
from genforge.steps.project import Project
from genforge.steps.search import _plan, run, trial_steps, write_trials
from genforge.steps.search_trial import images_of, looks_of

KEY = "objective.beta"
UNTIL_WORKERS_START = """
import sys
from pathlib import Path
from genforge.search import run
from genforge.steps import search
from genforge.steps.project import Project

def workers_start(plan, *arguments, **named):
    print(plan.name, "with" if "torch" in sys.modules else "without", "torch")
    sys.exit()

run.run_search = workers_start
search.run(Project.load(Path()), "vae")
"""


def make_project(root: Path, trials: int) -> Project:
    """A small VAE on digits, judged by a hastily trained extractor."""
    parameters = {
        "device": "cpu",
        "evaluation": {"images": 50},
        "extractor": {"steps": 20, "width": 8},
        "search": {"trials": trials, "workers": 1, "steps_share": 0.5, "reports": 2, "images": 50},
        "recipes": {
            "vae": {
                "from": "vae",
                "networks": {"encoder": {"width": 8}, "decoder": {"width": 8}},
                "objective": {"beta": 1.0},
                "training": {"steps": 40, "log_every": 10},
                "search": {"space": {KEY: {"low": 0.5, "high": 4.0, "log": True}}},
            },
            "box": {"from": "box"},
        },
    }
    return project_of(root, parameters)


def project_of(root: Path, parameters: dict[str, Any]) -> Project:
    (root / "params.yaml").write_text(yaml.safe_dump(parameters))
    return Project.load(root)


@pytest.mark.parametrize(("given", "of_one_pass", "of_many"), [(None, 1000, 200), (70, 70, 70)])
def test_values_are_of_more_images_where_an_image_is_one_pass(
    given: int | None, of_one_pass: int, of_many: int, tmp_path: Path
) -> None:
    recipes = {"one": {"from": "vae"}, "many": {"from": "ddpm"}}
    project = project_of(tmp_path, {"search": {"images": given}, "recipes": recipes})
    found = [images_of(project, catalog.resolve(name, recipe)) for name, recipe in recipes.items()]
    assert found == [of_one_pass, of_many]


def step(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "GENFORGE_UPLOADER": "off", "GENFORGE_THREADS": "1"}
    command = [sys.executable, "-m", "genforge.cli", "step", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stderr


def killed_search(root: Path) -> tuple[int, int]:
    """A search of which everything is killed when a trial has a checkpoint: the trial's number, and that step."""
    command = [sys.executable, "-m", "genforge.cli", "step", "search", "vae"]
    environment = {**os.environ, "GENFORGE_UPLOADER": "off", "GENFORGE_THREADS": "1"}
    search = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while not (
            kept := list((root / ".genforge" / "search" / "vae").glob("*/trial-*-0/step-*[1-9]*"))
        ):  # not its beginning
            assert search.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, which is told above
            os.killpg(search.pid, signal.SIGKILL)  # at one moment: nobody gets a step further
        search.wait()
    return int(kept[0].parent.name.split("-")[1]), int(kept[0].name.removeprefix("step-"))


def trained_steps(run: Path) -> list[int]:
    """Steps of which a tracker's run tells how training went."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event["step"] for event in events if "images_per_second" in event.get("values", {})]


def protocols(run: Path) -> set[str]:
    """What a tracker's run says that it is judged by."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return {event["values"]["genforge.protocol"] for event in events if event["event"] == "tags"}


def test_without_trials_there_are_no_settings_and_no_work(tmp_path: Path) -> None:
    project = make_project(tmp_path, trials=0)
    recipe = {
        "recipe": {"origin": "box", "description": "", "source": "", "networks": {}, "objective": {}, "sampler": {}}
    }
    for name in ("vae", "box"):
        project.recipe_file(name).parent.mkdir(parents=True, exist_ok=True)
        project.recipe_file(name).write_text(json.dumps(recipe))
        run(project, name)
        best = json.loads((project.search(name) / "best.json").read_text())
        assert best == {"settings": {}, "value": None, "metric": "fid", "trials": 0}
        assert [path.name for path in project.search(name).iterdir()] == ["best.json"]
    assert not project.state.exists()


def test_it_is_told_why_a_recipe_that_could_be_searched_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = {"objective": {"latent_size": 8, "beta": 1}, "training": {"optimizer": {"learning_rate": 1e-3}}}
    recipes = {"vae": {"from": "vae", **stated}, "box": {"from": "box"}}
    project = project_of(tmp_path, {"search": {"trials": 3}, "recipes": recipes})
    resolve.run(project)
    for name in recipes:
        run(project, name)
        assert read_json(project.search(name) / "best.json")["trials"] == 0
    said = capsys.readouterr().err
    assert "search of vae: nothing to turn" in said and "recipes.vae.search.space" in said
    assert all(key in said for key in catalog.read_library("vae")["search"]["space"]) and "box" not in said


@pytest.mark.parametrize("given", [None, 5])
def test_suggestions_have_a_seed_of_their_own_where_one_is_given(given: int | None, tmp_path: Path) -> None:
    parameters = {"seed": 2, "search": {"seed": given}, "recipes": {"vae": {"from": "vae"}}}
    plan = _plan(project_of(tmp_path, parameters), catalog.resolve("vae", {"from": "vae"}), "vae", "parent")
    assert plan.seed == (2 if given is None else given)
    assert plan.arguments["seed"] == derive(2, "search", "vae")  # of the trials' training


def test_a_plan_has_the_portfolio_of_its_recipe(tmp_path: Path) -> None:
    known = [{"objective.beta": 1.5}, {"objective.latent_size": 6}]
    recipe = catalog.resolve("vae", {"from": "vae", "search": {"portfolio": known}})
    plan = _plan(project_of(tmp_path, {"recipes": {"vae": {"from": "vae"}}}), recipe, "vae", "parent")
    assert plan.portfolio == known
    assert Plan.model_validate_json(plan.model_dump_json()) == plan  # as a worker gets it


@pytest.mark.parametrize(("given", "of_gan", "of_vae"), [(None, 600, 300), (0.1, 100, 150), (0.001, 3, 3)])
def test_gans_have_longer_trials_where_nothing_is_said(
    given: float | None, of_gan: int, of_vae: int, tmp_path: Path
) -> None:
    recipes = {"gan": {"from": "hinge-sngan"}, "vae": {"from": "vae"}}
    project = project_of(tmp_path, {"search": {"steps_share": given}, "recipes": recipes})
    found = {name: trial_steps(project, catalog.resolve(name, recipe)) for name, recipe in recipes.items()}
    assert found == {"gan": of_gan, "vae": of_vae}
    assert _plan(project, catalog.resolve("gan", recipes["gan"]), "gan", "parent").arguments["steps"] == of_gan


def test_a_name_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a recipe"):
        run(make_project(tmp_path, trials=0))


@pytest.mark.parametrize(
    ("steps", "reports", "looks"),
    [(200, 3, [134, 200]), (180, 3, [120, 180]), (40, 2, [40]), (40, 1, [40]), (7, 5, [3, 5, 6, 7])],
)
def test_a_trial_is_judged_after_each_of_its_parts_but_the_first(steps: int, reports: int, looks: list[int]) -> None:
    assert looks_of(steps, reports) == looks


def test_trials_are_a_table_with_a_column_for_each_setting(tmp_path: Path) -> None:
    rows = [
        Row(0, "complete", 3.5, {"a": 1, "b": "x, y"}, 2.0),
        Row(1, "failed", None, {"a": 2}, 0.5, 'ValueError: "no",\nreally'),
    ]
    write_trials(tmp_path / "trials.csv", Found(rows, rows[0], {}, ""), ["a", "b"])
    with (tmp_path / "trials.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table[0] == {
        "number": "0",
        "state": "complete",
        "value": "3.5",
        "a": "1",
        "b": "x, y",
        "seconds": "2.00",
        "reason": "",
    }
    assert table[1]["value"] == "" and table[1]["reason"] == 'ValueError: "no",\nreally'


@pytest.mark.slow
def test_a_search_on_digits_from_defaults_to_best(tmp_path: Path) -> None:
    project = make_project(tmp_path, trials=3)
    for name in ("resolve", "ingest", "prepare", "extractor"):
        importlib.import_module(f"genforge.steps.{name}").run(project)
    killed, checkpoint = killed_search(tmp_path)
    (searched,) = (project.state / "runs").glob("*-search-vae-*")
    assert protocols(searched)  # known from the beginning on, and not only to a search that came to its end
    said = step(tmp_path, "search", "vae")
    assert "search of vae" in said

    folder = project.search("vae")
    best = json.loads((folder / "best.json").read_text())
    assert best["protocol"].startswith("classifier-")
    assert {best["protocol"]} == protocols(searched)
    with (folder / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert [row["number"] for row in trials] == ["0", "1", "2"]
    assert float(trials[0][KEY]) == best["defaults"][KEY] == 1.0
    assert Dimension(low=0.5, high=4.0).low <= best["settings"][KEY] <= 4.0  # type: ignore[operator]
    complete = [float(row["value"]) for row in trials if row["state"] == "complete"]
    assert best["value"] == min(complete) <= best["default_value"] == float(trials[0]["value"])
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    assert "reason" in trials[0] and best["trials"] == 3

    # Asked again with the same inputs, as DVC does when it has lost the output, it makes the same without new trials.
    before = (folder / "trials.csv").read_bytes()
    run(project, "vae")
    assert (folder / "trials.csv").read_bytes() == before

    # The trial that was killed has two runs in the tracker, and the second went on where the first had kept itself.
    first, second = sorted((project.state / "runs").glob(f"*-trial-vae-{killed}-*"))
    assert (trained_steps(first), checkpoint, trained_steps(second)) == ([10], 10, [20])

    # Workers start at once: what asks them has not waited for torch.
    asked = subprocess.run([sys.executable, "-c", UNTIL_WORKERS_START], cwd=tmp_path, capture_output=True, text=True)
    assert asked.stdout == "vae without torch\n", asked.stderr
