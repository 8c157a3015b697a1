"""What a project needs of the machine around it: packages, disk, folders, git, DVC, a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from genforge.settings import UserError
from genforge.steps.project import Project

GIGABYTE = 10**9
LEAST_FREE = 1 * GIGABYTE  # bytes for logs, pictures, databases and DVC's cache, before any checkpoint
COPIES = 3  # of a checkpoint that can lie on the disk at once: two are kept while a third is written
# Bytes a trained number takes in a checkpoint: itself, its running average and Adam's two moments, in float32.
BYTES_A_PARAMETER = 16


@dataclass(frozen=True)
class Check:
    """verdict: `wrong` is for what keeps the pipeline from working, and a person has to mend; `note` is for knowing."""

    name: str
    verdict: Literal["fine", "note", "wrong"]
    text: str


def checks(root: Path) -> Iterator[Check]:
    """Everything there is to say about the place, cheapest first."""
    yield packages()
    yield folders(root)
    yield git(root)
    yield remote(root)
    try:
        project = Project.load(root)
    except UserError as error:
        yield Check("settings", "wrong", str(error))
        return
    yield gpu(project)
    yield disk(project)


def packages(distribution: str = "genforge") -> Check:
    """Installed versions against the bounds of pyproject.toml: later releases of some packages are known to break
    others without a word (the reasons stand beside the bounds)."""
    from packaging.requirements import Requirement

    wrong = []
    try:
        stated = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return Check("packages", "wrong", f"{distribution} is not installed; `make run` makes the environment")
    for requirement in map(Requirement, stated):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, and should be {requirement.specifier}")
    if wrong:
        return Check("packages", "wrong", "; ".join(wrong) + ": install from requirements.lock")
    return Check("packages", "fine", "within the bounds of pyproject.toml")


def folders(root: Path) -> Check:
    """The places that steps write to can be written to."""
    places = [root, *(root / name for name in ("data", "results", ".genforge", ".dvc", "mlruns"))]
    closed = [str(path) for path in places if path.exists() and not os.access(path, os.W_OK | os.X_OK)]
    if closed:
        return Check("folders", "wrong", f"cannot be written to by you: {', '.join(closed)}")
    return Check("folders", "fine", "can be written to")


def git(root: Path) -> Check:
    """The repository, where DVC looks for it before it runs a stage, and the program, which tells the commit that a
    model comes from and clones what scheduled runs work in."""
    lost = "models are registered without the commit that they come from, and `make schedule` ends at once"
    if not any((place / ".git").exists() for place in (root.resolve(), *root.resolve().parents)):
        if _goes_without_git(root):
            return Check("git", "note", f"DVC goes without it (core.no_scm): {lost}")
        remedy = "`git init` makes it one, and commit what is there; or `dvc config core.no_scm true`, to go without"
        return Check("git", "wrong", f"{root.resolve()} is no git repository, and DVC runs no stage in it: {remedy}")
    try:
        words = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, PermissionError):
        return Check("git", "wrong", f"is not on PATH ({lost}): install it, or add its folder to PATH")
    except subprocess.TimeoutExpired:
        return Check("git", "wrong", f"does not answer ({lost}): see what `{' '.join(words)}` waits for")
    if answer.returncode:
        said = " ".join(answer.stderr.split()) or f"exit status {answer.returncode}"
        return Check("git", "note", f"no commit can be told of ({lost}); `{' '.join(words)}` says: {said}")
    return Check("git", "fine", f"at commit {answer.stdout.strip()}")


def _goes_without_git(root: Path) -> bool:
    """Whether DVC is told to; a configuration that cannot be read tells it nothing."""
    from dvc.config import Config as DvcConfig
    from dvc.config import ConfigError

    try:
        return bool(DvcConfig(str(root / ".dvc"))["core"].get("no_scm"))
    except ConfigError:
        return False


def remote(root: Path) -> Check:
    """Where DVC's results go to when they are shared."""
    if not (root / ".dvc").is_dir():
        return Check("DVC", "wrong", f"{root.resolve()} is no DVC repository; `dvc init` makes it one")
    from dvc.config import Config as DvcConfig
    from dvc.config import ConfigError

    try:
        found = DvcConfig(str(root / ".dvc"))
    except ConfigError as error:
        return Check("DVC", "wrong", f"its configuration cannot be read: {error}")
    names = sorted(found["remote"])
    if not names:
        return Check("DVC", "note", "no remote: results stay on this machine; `dvc remote add -d NAME URL` names one")
    default = found["core"].get("remote")
    which = f"default {default}" if default else "no default: `dvc remote default NAME` makes one"
    return Check("DVC", "note", f"remotes {', '.join(names)}; {which}")


def gpu(project: Project) -> Check:
    """The device that training will take."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("GPU", "note", f"{', '.join(names)}; device: {project.config.device} takes {project.device}")
    if project.config.device == "cuda":
        return Check("GPU", "wrong", "none that torch can use, but params.yaml says device: cuda; set auto or cpu")
    if shutil.which("nvidia-smi") is not None:
        build = torch.version.cuda or "no CUDA"
        return Check("GPU", "note", f"this machine has nvidia-smi, but torch (built with {build}) finds no GPU")
    return Check("GPU", "note", "none: the CPU trains")


def disk(project: Project) -> Check:
    """Free space against what the checkpoints of all recipes will take, besides those that lie there already."""
    free = shutil.disk_usage(project.root).free
    needed, known = LEAST_FREE, ""
    try:
        needed += max(0, checkpoint_bytes(project) - _bytes_in(project.state / "checkpoints"))
    except UserError:
        known = "; what checkpoints take is known once the data are prepared"
    text = f"{free / GIGABYTE:.1f} GB free, {needed / GIGABYTE:.1f} GB wanted{known}"
    if free < needed:
        return Check("disk", "wrong", f"{text}: make room, or training stops at a checkpoint")
    return Check("disk", "fine", text)


def checkpoint_bytes(project: Project) -> int:
    """The most that checkpoints of training and of a search at work can take.

    Raises:
        UserError: the data are not prepared, or a recipe is wrong.
    """
    from genforge.catalog import build_objective, resolve_all
    from genforge.data.loading import Prepared

    prepared = Prepared.open(project.prepared)
    sizes = [0]
    for recipe in resolve_all(project.config.recipes, project.config.data.source == "points").values():
        objective = build_objective(recipe, prepared.shape, len(prepared.classes))
        modules = [*(player.module for player in objective.players), objective.exported]
        tensors = {id(tensor): tensor.numel() for module in modules for tensor in module.parameters()}
        sizes.append(COPIES * BYTES_A_PARAMETER * sum(tensors.values()))
    searching = project.config.search.workers if project.config.search.trials else 0
    return sum(sizes) + searching * max(sizes)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
