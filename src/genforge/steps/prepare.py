"""The step `prepare`: every input decoded, checked, split and described, in `data/prepared`."""

from __future__ import annotations

from genforge.data.preparation import prepare
from genforge.files import replacing_folder
from genforge.steps.project import Project


def run(project: Project, name: str | None = None) -> None:
    """Fill `data/prepared`. Raises UserError when too much is broken, or a split or a class is too small."""
    config = project.config
    with replacing_folder(project.prepared) as out:
        prepare(project.raw, project.source_folder, out, config.data, config.seed, least_test=config.evaluation.images)
