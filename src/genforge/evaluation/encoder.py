"""Image encoders that others trained on photographs: squares of RGB, normalised by channel, to features alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genforge.evaluation.extractor import Extractor
from genforge.evaluation.inception import resized

Channels = tuple[float, float, float]


class Encoder(Extractor):
    """What such extractors share. Each of them sets `network`, `side` in pixels, and `normal`: mean and deviation of
    levels / 255 by channel, as in its training."""

    logits_layer = None
    network: nn.Module
    side: int
    normal: tuple[Channels, Channels]

    @property
    def resizing(self) -> str:  # type: ignore[override]
        return f"to {self.side} x {self.side} as TensorFlow 1 resizes, by torch-fidelity; gray repeated"

    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._features(images.permute(0, 3, 1, 2).float()), None

    def look_between(self, images: Tensor) -> Tensor:
        return self._features(images.float().add(1.0).mul(127.5))

    def _features(self, levels: Tensor) -> Tensor:
        return self.network(normalised(resized(levels.expand(-1, 3, -1, -1), self.side), *self.normal))


def normalised(levels: Tensor, mean: Channels, deviation: Channels) -> Tensor:
    """Levels 0..255 (n, 3, height, width), less their mean and over their deviation, of levels / 255 by channel."""
    middle, spread = (255.0 * torch.tensor(values, device=levels.device)[:, None, None] for values in (mean, deviation))
    return (levels - middle) / spread
