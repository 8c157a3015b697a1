"""CLIP's image encoder (Radford et al. 2021), by torch-fidelity, with weights from a file.

The files that OpenAI publishes are TorchScript archives, which hold code, and code from a file is not run here. Whoever
trusts one turns it into plain tensors, once, elsewhere: `torch.save(torch.jit.load(FILE).state_dict(), "clip.pth")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from genforge.evaluation.extractor import Extractor
from genforge.evaluation.inception import resized
from genforge.evaluation.weights import first_line, read_weights
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision

WANTED = (
    "the state dict of OpenAI's CLIP as plain tensors, made where its archive is trusted: "
    '`torch.save(torch.jit.load("ViT-B-32.pt", "cpu").state_dict(), "clip.pth")`'
)
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of levels / 255


class ClipExtractor(Extractor):
    """Features are the image's place in the space that CLIP shares with text."""

    name = "clip"
    feature_layer, logits_layer = "clip", None
    why_no_logits = "clip names no classes; IS needs extractor.name: classifier or inception"

    def __init__(self, weights: Mapping[str, Tensor], digest: str, device: str = "cpu") -> None:
        import_torchvision()
        from torch_fidelity.feature_extractor_clip import build_model

        self.network = build_model(dict(weights), torch.float32).visual.to(device)
        self.side: int = self.network.input_resolution
        self.dimensions = weights["text_projection"].shape[1]
        self.resizing = f"to {self.side} x {self.side} as TensorFlow 1 resizes, by torch-fidelity; gray repeated"
        self.digest, self.device = digest, device

    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._features(images.permute(0, 3, 1, 2).float()), None

    def look_between(self, images: Tensor) -> Tensor:
        return self._features(images.float().add(1.0).mul(127.5))

    def _features(self, levels: Tensor) -> Tensor:
        return self.network(normalised(resized(levels.expand(-1, 3, -1, -1), self.side), MEAN, DEVIATION))


def normalised(levels: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Levels 0..255 (n, 3, height, width), less their mean and over their deviation, of levels / 255 by channel."""
    middle, spread = (255.0 * torch.tensor(values, device=levels.device)[:, None, None] for values in (mean, deviation))
    return (levels - middle) / spread


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
