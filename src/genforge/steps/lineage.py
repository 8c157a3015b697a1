"""From an alias to the images: which version it names, who trained that, with which recipe, at which commit, on what.

All of it is in the registry, as tags that `register` gives to a version, so that it can be told of any alias, by any
machine that sees the registry, long after the run. `register` draws the chains of every alias beside the report as they
are when it ends; `genforge lineage` tells what holds now.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from genforge.evaluation.metrics import METRICS
from genforge.files import digest_file, read_json, read_yaml, replacing_folder, write_json
from genforge.registry.registry import Registry, Version
from genforge.report.lineage import Link, draw, picture_name
from genforge.settings import UserError, nearest
from genforge.steps.project import Project

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "not recorded"  # of a version that an older genforge, or a person, has registered


def tags(project: Project, recipe: str) -> dict[str, str]:
    """What a version keeps of its origin besides its commit, its code and its data's digest; empty values where a step
    was run without DVC or from elsewhere."""
    card, resolved = read_json(project.prepared / "card.json"), project.recipe_file(recipe)
    data = project.config.data
    folder = data.folder if data.source == "image_folder" else ""
    return {
        "recipe_digest": digest_file(resolved) if resolved.is_file() else "",
        "splits": ", ".join(f"{split} {count:,}" for split, count in card["splits"].items()),
        "raw": _locked(project.root, "data/raw"),
        "incoming": _locked(project.root, folder) if folder else "",
        "source": f"{folder or data.source}, {card['counts']['inputs']:,} images",
    }


def _locked(root: Path, path: str) -> str:
    """The digest that dvc.lock knows a path by; empty when it knows none."""
    lock = root / "dvc.lock"
    stages = read_yaml(lock).get("stages") or {} if lock.is_file() else {}
    for stage in stages.values():
        for entry in (*(stage.get("outs") or ()), *(stage.get("deps") or ())):
            if entry.get("path") == path:
                return str(entry.get("md5", ""))
    return ""


def write(project: Project, registry: Registry, folder: Path) -> None:
    """A chain for each alias of the registry: `folder`/ALIAS.svg, and all of them in lineage.json."""
    chains = {alias: chain(registry, alias) for alias in sorted(registry.aliases())}
    with replacing_folder(folder) as out:
        write_json(out / "lineage.json", {alias: [asdict(link) for link in links] for alias, links in chains.items()})
        for alias, links in chains.items():
            draw(out / picture_name(alias), links, f"Where {registry.name}@{alias} comes from")


def chain(registry: Registry, alias: str) -> list[Link]:
    """From the alias down to the raw images.

    Raises:
        UserError: nobody holds this alias.
    """
    version = registry.holder(alias)
    if version is None:
        held = sorted(registry.aliases())
        raise UserError(
            f"nobody holds {registry.name}@{alias}; " + (nearest(alias, held) if held else "no alias is held yet")
        )
    return [_alias(registry, alias), *_origin(registry, version)]


def _alias(registry: Registry, alias: str) -> Link:
    move = registry.history_of_aliases.read().last().get(alias)
    words = () if move is None else (f"since {_time(move.time)}, by {move.who}", move.reason)
    return Link("alias", f"{registry.name}@{alias}", words)


def _origin(registry: Registry, version: Version) -> list[Link]:
    known = {key.removeprefix("genforge."): value for key, value in version.tags.items()}

    def of(key: str) -> str:
        return known.get(key) or UNKNOWN

    changed = " (and files that differed from it)" if known.get("dirty") == "true" else ""
    searched = f"trained {of('steps')} steps, seed {of('seed')}"
    raw = [("data/raw, by dvc.lock", of("raw"))]
    if known.get("incoming"):
        raw.append(("the folder it was read from, by dvc.lock", known["incoming"]))
    return [
        Link("registered version", f"{registry.name} version {version.number}", _scores(version),
             [("weights and settings", of("weights"))], "is"),
        Link("MLflow run", f"train {version.recipe}", (), [("run", version.run or UNKNOWN)], "trained by"),
        Link("recipe", f"{version.recipe}, from {of('origin')}", (searched,),
             [("resolved recipe", of("recipe_digest")), ("code of its networks and training", of("code"))], "with"),
        Link("git commit", f"{of('commit')[:12]}{changed}", ("where it stood when it was registered",),
             [("commit", of("commit")), ("dvc.lock", of("dvc_lock"))], "at"),
        Link("prepared data", f"{registry.name} {of('data')[:12]}", (of("splits"),),
             [("contents of all splits", of("data"))], "on"),
        Link("raw images", of("source"), (), raw, "made from"),
    ]  # fmt: skip


def _scores(version: Version) -> list[str]:
    """What the judge says of it, under each protocol."""
    told = []
    for protocol, scores in version.scores.items():
        shown = [f"{METRICS[name].title} {METRICS[name].show(found['mean'])}"
                 for name, found in list(scores.items())[:2] if name in METRICS]  # fmt: skip
        told.append(f"{', '.join(shown)} under {protocol}")
    return told


def _time(written: str) -> str:
    """ISO 8601 as people read it."""
    return written.replace("T", " ").partition(".")[0].removesuffix("Z").removesuffix("+00:00") + " UTC"


def tell(project: Project, name: str, out: Path | None = None) -> list[Link]:
    """The chain of `MODEL@ALIAS`, or of an alias of the model of params.yaml; drawn into `out`, where it is given.

    Raises:
        UserError: nobody holds the alias, or `out` is no .svg.
    """
    model, mark, alias = name.partition("@")
    if out is not None and out.suffix != ".svg":
        raise UserError(f"--out {out}: a chain is drawn as a picture by the name of .svg")
    registry = Registry(project.root, model if mark else project.config.data.name)
    links = chain(registry, alias if mark else name)
    if out is not None:
        draw(out, links, f"Where {links[0].name} comes from")
    return links


def table(links: list[Link]) -> Table:
    """The chain for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table("from", "which", "digest")
    for link in links:
        which = "\n".join([link.name, *link.words])
        shown.add_row(escape(link.what), escape(which), escape("\n".join(f"{what}: {it}" for what, it in link.digests)))
    return shown


def as_json(links: list[Link]) -> str:
    return json.dumps([asdict(link) for link in links], indent=2)
