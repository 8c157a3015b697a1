"""The one door to torchvision.

Torchvision's wheels are built for CUDA. Beside a CPU build of torch their compiled operators do not load, and the
import then stops at `operator torchvision::nms does not exist`, although nothing that we use needs an operator. When
that very error is raised, and only then, the two operators that torchvision names while it is imported are declared
without a body, and the import is done again. Image folders, transforms, models and grids work then; `torchvision.io`
and `torchvision.ops.nms` do not. Where torchvision is whole this is a plain import.

Whatever imports torchvision by itself (torch-fidelity does) must come after a call of `import_torchvision`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SYMPTOM = "operator torchvision::nms does not exist"
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declared: list[torch.library.Library] = []  # a declaration lasts as long as its library object does


def import_torchvision() -> ModuleType:
    """Torchvision, imported and usable. Costs about two seconds the first time, nothing afterwards."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if SYMPTOM not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported: what is left would be found again as it is
    if not _declared:
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(operator + SIGNATURE)
        _declared.append(library)
    return importlib.import_module("torchvision")
