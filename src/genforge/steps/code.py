"""Which source decides what each step makes, and the digest of it.

Stages of dvc.yaml depend on `results/code/<stage>.json` (from `resolve`) in place of a list of files. So an edit makes
those stages stale that use it and no others, a new file is watched as soon as it is imported, and DVC has one file to
look at for each recipe's stage where it had thirty.

What counts is what a step's modules import, and what they find by name in a table. What does not: plumbing, which
carries values and changes none, and the loop, which stands with networks, objectives and samplers in the digest of each
recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genforge.catalog import DENSITIES, GATES
from genforge.files import digest_file
from genforge.imports import NAME, closure

LOOP = "training"
# Networks that densities know by their type: each stands in the digest of the recipes that use it.
DENSITIES_KNOW = tuple(f"networks.{name}" for name in ("autoregressive", "denoiser", "flow", "pixel_heads", "pixels"))
PLUMBING = (
    *("catalog", "config", "dimension", "environment", "files", "imports", "locks", "ownership", "parallel"),
    *("processes", "progress", "settings", "slots", "steps.code", "steps.project", "torchvision_cure", "tracking"),
    "webhook",
)


@dataclass(frozen=True)
class Code:
    """Of one stage: modules from which it begins, and modules that it imports for something that does not decide.

    Modules and packages, named from genforge on.
    """

    begins: tuple[str, ...]
    spared: tuple[str, ...] = (LOOP,)


def _named_in(table: dict[str, str]) -> tuple[str, ...]:
    """The modules of a table of the catalog, from genforge on."""
    return tuple(sorted({target.partition(":")[0].removeprefix(f"{NAME}.") for target in table.values()}))


# `ingest` and `prepare` have no entry: their code is one folder, and nothing has to be resolved before them.
STAGES = {
    "extractor": Code(("steps.extractor",), ("evaluation.metrics", "evaluation.protocol", "pictures", "scatter")),
    "search": Code(("steps.search", "steps.search_trial", "search.fork_server")),
    "train": Code(("steps.train",), (LOOP, "steps.plane")),
    "sample": Code(("steps.sample",), (LOOP, "data.loading")),
    "evaluate": Code(
        ("steps.evaluate", *_named_in(DENSITIES)),
        (LOOP, *DENSITIES_KNOW, "data.loading", "evaluation.leaderboard", "pictures"),
    ),
    # Real images have no model, no latents and no likelihood.
    "floor": Code(
        ("steps.evaluate",),
        (LOOP, "evaluation.leaderboard", "models", "pictures", "steps.labels", "steps.latent", "steps.likelihood"),
    ),
    "gates": Code(("steps.gates", "registry.served_model", *_named_in(GATES))),
    "rank": Code(("steps.rank",)),
    "report": Code(("steps.report",), (LOOP, "evaluation.protocol")),
    "register": Code(
        ("steps.register", "registry.served_model", "tracking.mlflow_store", *_named_in(GATES)),
        (LOOP, "data.loading", "networks.classifier", "steps.labels", "steps.latent", "steps.likelihood"),
    ),
}


def files_of(stage: str) -> dict[str, Path]:
    """The files that decide what a stage makes, by module; a module's template, which lies beside it, with it."""
    code = STAGES[stage]
    beginning = [f"{NAME}.{module}" for module in code.begins]
    left_out = tuple(f"{NAME}.{module}" for module in (*PLUMBING, *code.spared))
    found: dict[str, Path] = {}
    for module, path in closure(beginning).items():
        within = module.startswith(tuple(f"{package}." for package in left_out)) or module in left_out
        if path.stat().st_size and (module in beginning or not within):
            found[module] = path
            if (template := path.with_suffix(".html")).is_file():
                found[f"{module} ({template.name})"] = template
    return found


def digests(stage: str) -> dict[str, str]:
    """Of each of these files."""
    return {module: digest_file(path) for module, path in files_of(stage).items()}
