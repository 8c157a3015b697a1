"""The one rule of conditioning that all objectives share."""

from __future__ import annotations

from genforge.contracts import Port
from genforge.settings import UserError


def check_conditioning(conditional: bool, port: Port) -> None:
    """Raises UserError when labels are asked for and the data has none."""
    if conditional and port.classes == 0:
        raise UserError(
            "objective.conditional is true, but the data has no labels; set it to false, or give labelled data "
            "(an image folder with one folder a class)"
        )
