"""Where the runs of steps are kept, so that one that was stopped goes on.

Checkpoints lie under .genforge/checkpoints/<name>/<digest of all inputs>, outside of what DVC deletes before a stage
runs. So a stage that was killed goes on where it was, and one with other inputs starts afresh.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genforge.files import digest_json
from genforge.steps.project import Project

if TYPE_CHECKING:
    from genforge.training.checkpoint import Checkpoints

EXTRACTOR = "_extractor"  # no recipe's name begins like this


def checkpoints_of(project: Project, name: str, inputs: Mapping[str, Any]) -> Checkpoints:
    """The checkpoints of the run of a recipe (or EXTRACTOR) over `inputs`: everything that its weights depend on."""
    from genforge.training.checkpoint import Checkpoints, checkpoints_folder

    return Checkpoints(checkpoints_folder(project.root) / name / digest_json(inputs), identity=inputs)


def forget_others(checkpoints: Checkpoints) -> None:
    """Remove the checkpoints of this name over other inputs. The finished run's own stay: if the process is killed
    before DVC has noted the result, nothing is trained twice."""
    for other in checkpoints.folder.parent.glob("*"):
        if other != checkpoints.folder:
            shutil.rmtree(other)
