"""The step `ingest`: the source that `params.yaml` names, as arrays or as a listing of files, in `data/raw`."""

from __future__ import annotations

from genforge.data.sources import Places, ingest
from genforge.files import replacing_folder
from genforge.steps.project import Project


def run(project: Project, name: str | None = None) -> None:
    """Fill `data/raw`. Raises UserError when the source is missing, damaged or cannot be downloaded."""
    places = Places(project.source_folder, project.state / "downloads", project.config.seed)
    with replacing_folder(project.raw) as out:
        ingest(project.config.data, places, out)
