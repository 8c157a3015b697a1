"""DVC sees every file whose change would change a recipe's results."""

from __future__ import annotations

from pathlib import Path

import yaml

from genforge import catalog
from genforge.imports import closure

ROOT = Path(__file__).parents[2]


def test_the_digest_of_a_recipe_is_made_anew_when_its_code_changes() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    watched = [ROOT / path for path in stages["resolve"]["deps"]]
    recipes = [catalog.resolve(name, {"from": name}) for name in catalog.library()]
    for path in closure({module for recipe in recipes for module in recipe.modules()}).values():
        if path.stat().st_size:
            assert any(path.is_relative_to(place) for place in watched), f"resolve does not depend on {path}"
