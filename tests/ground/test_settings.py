"""A wrong setting is told with its key, its value, the rule and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from genforge import catalog, config
from genforge.settings import UserError

GOOD = "recipes: {gan: {from: hinge-sngan}}\n"


def load(folder: Path, text: str) -> config.Config:
    (folder / "params.yaml").write_text(text)
    return config.load(folder / "params.yaml")


def test_defaults_fill_what_is_not_said(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    assert settings.data.source == "digits"
    assert settings.evaluation.seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seeds: 1\n", ["seeds: unknown key", "did you mean `seed`?"]),
        ("data: {sorce: digits}\n", ["data.sorce: unknown key", "did you mean `source`?"]),
        ("data: {source: mnst}\n", ["data.source: 'mnst'", "did you mean `mnist`?"]),
        ("data: {image_size: 30}\n", ["data.image_size: 30", "multiple of 4"]),
        ("data: {image_size: 128}\n", ["data.image_size: 128", "less than or equal to 64"]),
        ("data: {test: 1.5}\n", ["data.test: 1.5", "less than 1"]),
        ("data: {test: .nan}\n", ["data.test: nan", "finite"]),
        ("data: {name: ../escape}\n", ["data.name: '../escape'", "lower case letters"]),
        ("search: {trials: many}\n", ["search.trials: 'many'", "integer"]),
        ("evaluation: {seeds: [1, 1, 2]}\n", ["evaluation.seeds", "different"]),
        ("device: gpu\n", ["device: 'gpu'", "cpu", "cuda"]),
        ("data: 3\n", ["data: 3"]),
        ("data: {channels: 2}\n", ["data.channels: 2 is not a valid choice; valid: 1, 3"]),
        ("data: {source: points}\nextractor: {name: clip}\n", ["\nextractor.name should be coordinates", "not clip"]),
        ("schedule: {cron: nonsense}\n", ["schedule.cron: 'nonsense'", "five fields such as '0 3 * * *'"]),
        ("schedule: {cron: 61 * * * *}\n", ["schedule.cron: '61 * * * *'", "'61' is no minute", "0 to 59"]),
        ("schedule: {cron: 0 3 * * */0}\n", ["schedule.cron", "'*/0' is no weekday", "sun to sat"]),
        ("gates: {speed: 7}\n", ["gates.speed: 7", "{limit: 10}"]),
        ("gates: {No Sevens: {check: harm}}\n", ["gates.No Sevens: 'No Sevens'", "lower case letters"]),
    ],
)
def test_every_mistake_names_key_value_and_rule(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text + GOOD)
    for part in parts:
        assert part in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, "seed: -1\ndata: {test: 7}\n" + GOOD)
    assert "seed: -1" in str(caught.value) and "data.test: 7" in str(caught.value)


@pytest.mark.parametrize(
    ("recipes", "part"),
    [
        ("{}", "at least one entry"),
        ("{gan: hinge-sngan}", "recipes.gan: 'hinge-sngan' is wrong"),
        ("{gan: {training: {steps: 3}}}", "recipes.gan: {'training': {'steps': 3}} is wrong"),
        ("{'a/b': {from: vae}}", "recipes.a/b: 'a/b' is wrong"),
        ("{floor: {from: vae}}", "recipes.floor: 'floor' is wrong"),
        ("[gan]", "mapping"),
    ],
)
def test_entries_of_recipes_name_the_recipe_that_they_start_from(tmp_path: Path, recipes: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, f"recipes: {recipes}\n")
    assert part in str(caught.value)


def test_the_shipped_params_are_valid_and_say_every_default_as_it_is() -> None:
    root = Path(__file__).parents[2]
    shipped = config.load(root / "params.yaml")
    defaults = config.Config(recipes=shipped.recipes)
    without_gates = {"gates": {}}
    assert shipped.model_copy(update=without_gates) == defaults.model_copy(update=without_gates)
    # An entry of the file spells some settings and reasons out: they are those of the gates themselves.
    said, meant = catalog.build_gates(shipped.gates), catalog.build_gates(defaults.gates)
    assert {name: gate.settings for name, gate in said.items()} == {name: gate.settings for name, gate in meant.items()}
