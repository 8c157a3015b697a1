"""Exact maximum likelihood of a normalizing flow (Dinh et al. 2017, "Density estimation using real NVP").

Levels of 8-bit images are made continuous by uniform noise over their cells, drawn anew each time (Theis et al. 2016,
"A note on the evaluation of generative models", section 3.1); points are continuous already. The loss is in bits per
dimension: of images the negative log-probability of the 8-bit image, bounded from above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import CELL, Batch, ImageShape, Loss, Network, Objective, Player, Port, TrainingData
from genforge.networks.flow import Flow
from genforge.objectives.conditioning import check_conditioning
from genforge.settings import Settings, UserError

FIRST_BATCH = 256  # images that activation normalisation is set by


class FlowLikelihoodSettings(Settings):
    conditional: bool = Field(False, description="give the flow the labels")
    noise: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="standard deviation of normal noise on the training data, where they lie on lines or single "
        "points, on which a density would become infinite; likelihoods are told of data without it",
    )


class FlowLikelihood(Objective):
    """One player, `flow`, which is exported."""

    family: ClassVar[str] = "flow"
    settings_type = FlowLikelihoodSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, FlowLikelihoodSettings)
        classes = classes if settings.conditional else 0
        return {"flow": Port("latent_to_image", image, latent_size=image.size, classes=classes)}

    @classmethod
    def exported_role(cls) -> str:
        return "flow"

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        network = networks["flow"]
        assert isinstance(settings, FlowLikelihoodSettings)
        if not isinstance(network, Flow):
            raise UserError(
                f"objective 'flow' trains networks that can be inverted (realnvp, realnvp-mlp), not a "
                f"{type(network).__name__}; choose one of these for networks.flow, or another objective"
            )
        check_conditioning(settings.conditional, network.port)
        self.settings = settings
        self.flow = self.exported = network
        self.players = [Player("flow", network)]

    def prepare(self, data: TrainingData) -> None:
        """Activation normalisation is set by the first batch. What a checkpoint holds replaces it afterwards."""
        batch = data.batch(0, min(FIRST_BATCH, data.count))
        self.flow.adapt(self._continuous(batch.images), self._labels(batch))

    def loss(self, player: Player, batch: Batch) -> Loss:
        told = self.flow.log_density(self._continuous(batch.images), self._labels(batch))
        value = -told.mean() / (math.log(2) * self.flow.port.image.size) + self._bits_of_a_cell()
        return Loss(value, {"bits_per_dimension": value.detach()})

    def _continuous(self, images: Tensor) -> Tensor:
        if self.settings.noise:
            images = images + self.settings.noise * torch.randn_like(images)
        return images if self.flow.port.image.is_point else dequantised(images, torch.rand_like(images))

    def _labels(self, batch: Batch) -> Tensor | None:
        return batch.labels if self.settings.conditional else None

    def _bits_of_a_cell(self) -> float:
        """-log2 of a cell's width: from density to probability."""
        return 0.0 if self.flow.port.image.is_point else -math.log2(CELL)


def dequantised(images: Tensor, unit: Tensor) -> Tensor:
    """Images of 8-bit levels in [-1, 1] with noise over their cells. unit: uniform in (0, 1), of the same shape."""
    return images + CELL * (unit - 0.5)
