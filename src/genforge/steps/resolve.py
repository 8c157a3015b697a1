"""Resolve: every recipe of params.yaml, checked, with all its defaults filled in and the digest of its code; and the
digests of the code of every step.

Later steps depend on one recipe's file each, and on their own code's. So an edit of one network, or of one recipe,
makes that recipe's steps stale and no others, and an edit of the judge those that ask it.
"""

from __future__ import annotations

from genforge.catalog import Recipe, build_gates, resolve_all
from genforge.config import Config
from genforge.files import write_json
from genforge.steps import code
from genforge.steps.project import Project


def run(project: Project, name: str | None = None) -> None:
    """Write results/recipes/<name>.json for every recipe, and results/code/<stage>.json for every stage.

    Raises:
        UserError: names every wrong key of every recipe.
    """
    for recipe_name, recipe in check(project.config).items():
        content = {"recipe": recipe.model_dump(mode="json"), "family": recipe.family, "code": recipe.code_digest()}
        write_json(project.recipe_file(recipe_name), content)
    for stage in code.STAGES:
        write_json(project.code_file(stage), code.digests(stage))


def check(config: Config) -> dict[str, Recipe]:
    """Every recipe in full, after all that can be said against params.yaml before any work.

    Raises:
        UserError: names every wrong key of every recipe, or of every gate.
    """
    from genforge.steps.search import check_defaults

    recipes = resolve_all(config.recipes, points=config.data.source == "points")
    build_gates(config.gates)
    if config.search.trials:
        for name, recipe in recipes.items():
            check_defaults(name, recipe)
    return recipes
