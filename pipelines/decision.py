"""Whether a scheduled run has something to do, and the reason in words: decided before anything is trained.

`anything`: whatever DVC finds out of date, by data, code or settings. `data`: the same, but only when it is the data.
`drift`: only when the images that are new have drifted away from those that the staged model was trained on
(`genforge.evaluation.drift`), or that cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genforge.evaluation.drift import Drift
from genforge.files import digest_bytes, read_json, replacing_folder
from genforge.registry.registry import STAGING, Registry
from genforge.settings import UserError
from genforge.steps import drift as drift_step
from pipelines.dvc_commands import dvc
from pipelines.stages import Graph, Processes, out_of_date, run_stage, say_plainly
from pipelines.workplace import LOCK, Workplace

Trigger = Literal["anything", "data", "drift"]
TRIGGERS = ("anything", "data", "drift")
OF_DATA = ("ingest", "prepare")
KNOWN = "staged-data"  # in a workplace's state: data and extractor of the staged version


@dataclass(frozen=True)
class Decision:
    """retrain: whether there is something to do. reason: why, or why not. drift, picture: where drift was looked at."""

    retrain: bool
    reason: str
    drift: Drift | None = None
    picture: Path | None = None


class Untraceable(Exception):
    """The data of the staged version cannot be had; the text says why."""


def decide(place: Workplace, trigger: Trigger, processes: Processes) -> Decision:
    """Look at a workplace with the data of now.

    Raises:
        UserError: DVC cannot read something, or the registry is away.
        StageFailed: the data cannot be prepared.
    """
    new = out_of_date(place.folder)
    if not new:
        return Decision(False, f"nothing new: every stage is up to date with commit {place.commit[:9]} of "
                               f"{place.branch} and the data of now")  # fmt: skip
    first, why = next(iter(new.items()))
    said = f"out of date: {first}{f' ({why})' if why else ''}" + (f" and {len(new) - 1} more" if len(new) > 1 else "")
    if trigger == "anything":
        return Decision(True, said)
    if not any(stage in new for stage in OF_DATA):
        return Decision(False, f"nothing new in the data; {said}, which a schedule of everything takes up")
    if trigger == "data":
        return Decision(True, said)
    return _decide_drift(place, said, processes)


def _decide_drift(place: Workplace, said: str, processes: Processes) -> Decision:
    project = place.project
    staged = Registry(place.folder, project.config.data.name).holder(STAGING)
    if staged is None:
        return Decision(True, f"no model is staged yet; {said}")
    fetch(place, processes)
    for stage in [stage for stage in Graph.read(place.folder).order if stage in OF_DATA]:
        run_stage(stage, place.folder, place.environment, processes, say_plainly)
    known = project.state / KNOWN
    try:
        bring_known(place, staged.tags, known)
    except Untraceable as reason:
        untold = f"drift cannot be told, since the data of version {staged.number} cannot be had: {reason}"
        return Decision(True, f"{untold}; {said}")
    if read_json(known / "prepared" / "card.json")["shape"] != read_json(project.prepared / "card.json")["shape"]:
        return Decision(True, f"the images have another shape than those of version {staged.number}")
    new = drift_step.new_images(project.prepared, known / "prepared")
    if len(new) < project.config.schedule.drift_images:
        return Decision(False, f"{len(new)} images are new since version {staged.number}; drift is looked for from "
                               f"{project.config.schedule.drift_images} on (schedule.drift_images)")  # fmt: skip
    picture = project.state / drift_step.PICTURE
    found = drift_step.compare(project, known / "prepared", known / "extractor", new, picture)
    return Decision(found.has_drifted, f"{found.words} from the data of version {staged.number}", found, picture)


def fetch(place: Workplace, processes: Processes) -> None:
    """Bring what the lock and the .dvc files name into the workplace, from the shared cache or the remote; what is in
    neither has to be made. A search or a run that was killed may have left something else there, which is no loss."""
    dvc(place.folder, place.environment, processes, "pull", "--quiet", "--allow-missing", "--force")


def bring_known(place: Workplace, tags: Mapping[str, str], out: Path) -> None:
    """What tells drift of a registered version's data, as they were when it was registered: in `out`, `prepared` (the
    test split, the manifest, the card) and `extractor`. By the version's commit and the digest of its lock.

    Raises:
        Untraceable: the version names no commit that holds its lock, or the remote does not hold the data any more.
    """
    commit, digest = tags.get("genforge.commit", ""), tags.get("genforge.dvc_lock", "")
    lock = place.at_commit(commit, LOCK) if commit else None
    if lock is None or digest_bytes(lock.encode()) != digest:
        raise Untraceable("no commit holds the lock that it was registered with")
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        with replacing_folder(out) as folder:
            files = DVCFileSystem(str(place.folder), rev=commit)
            (folder / "prepared").mkdir()
            for name in ("card.json", "manifest.parquet", "test-images.npy"):
                files.get_file(f"data/prepared/{name}", str(folder / "prepared" / name))
            files.get("results/extractor", str(folder / "extractor"), recursive=True)
    except (OSError, DvcException) as error:
        raise Untraceable(f"the remote does not give them: {error}") from error


def check_trigger(trigger: str) -> Trigger:
    """Raises UserError unless it is one."""
    for known in TRIGGERS:
        if trigger == known:
            return known  # type: ignore[return-value]
    raise UserError(f"trigger: {trigger!r} is none; there are {', '.join(TRIGGERS)}")
