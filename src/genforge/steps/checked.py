"""What every step begins with: all that can be said against params.yaml is said before any work, and said once.

To check a recipe is to build it, with torch, which steps that move files or sort a table have no other use for. What
was found right stays right while neither the settings nor genforge's own code change: `.genforge/checked` holds the
digest of both from the last time, and who finds it there looks no further. Nothing is written where something is wrong.
"""

from __future__ import annotations

from genforge.files import digest_bytes, digest_json, write_text
from genforge.imports import PACKAGE
from genforge.steps.project import Project
from genforge.steps.resolve import check


def ensure(project: Project) -> None:
    """Check params.yaml unless it has been.

    Raises:
        UserError: names every wrong key of every recipe, or of every gate.
    """
    stamp, digest = project.state / "checked", _digest(project)
    if stamp.is_file() and stamp.read_bytes() == digest.encode():
        return
    check(project.config)
    write_text(stamp, digest)


def _digest(project: Project) -> str:
    """Of the settings, and of the code and the library of recipes that they are checked by."""
    files = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".yaml"))
    code = {str(path.relative_to(PACKAGE)): digest_bytes(path.read_bytes()) for path in files}
    return digest_json([project.config.model_dump(mode="json"), code])
