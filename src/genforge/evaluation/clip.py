"""CLIP's image encoder (Radford et al. 2021), by torch-fidelity, with weights from a file.

The files that OpenAI publishes are TorchScript archives, which hold code, and code from a file is not run here. Whoever
trusts one turns it into plain tensors, once, elsewhere: `torch.save(torch.jit.load(FILE).state_dict(), "clip.pth")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from genforge.evaluation.encoder import Encoder
from genforge.evaluation.weights import first_line, read_weights
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision

WANTED = (
    "the state dict of OpenAI's CLIP as plain tensors, made where its archive is trusted: "
    '`torch.save(torch.jit.load("ViT-B-32.pt", "cpu").state_dict(), "clip.pth")`'
)


class ClipExtractor(Encoder):
    """Features are the image's place in the space that CLIP shares with text."""

    name = "clip"
    feature_layer = "clip"
    normal = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    why_no_logits = "clip names no classes; IS needs extractor.name: classifier or inception"

    def __init__(self, weights: Mapping[str, Tensor], digest: str, device: str = "cpu") -> None:
        import_torchvision()
        from torch_fidelity.feature_extractor_clip import build_model

        self.network = build_model(dict(weights), torch.float32).visual.to(device)
        self.side = int(self.network.input_resolution)  # type: ignore[arg-type]
        self.dimensions = weights["text_projection"].shape[1]
        self.digest, self.device = digest, device


def clip_weights(path: Path | None) -> dict[str, Tensor]:
    """The image encoder's part of CLIP's weights.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    every = read_weights(path, WANTED)
    # torch-fidelity reads the number of features off the text's projection.
    weights = {key: value for key, value in every.items() if key.startswith("visual.") or key == "text_projection"}
    try:
        ClipExtractor(weights, "")
    except (RuntimeError, KeyError, TypeError, IndexError, AssertionError) as error:
        raise UserError(
            f"extractor.weights: {path} does not fit CLIP's image encoder ({first_line(error)}); give {WANTED}"
        ) from None
    return weights
