"""Learning to tell classes apart, or, where there are no labels, which way up an image is.

Rotation prediction is Gidaris, Singh & Komodakis 2018, "Unsupervised representation learning by predicting image
rotations": an image is turned by 0, 90, 180 or 270 degrees, and the network says by how much. To know that, it has to
know what is in the image. Of an image that is not square the square in its centre is turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port
from genforge.settings import Settings

Task = Literal["labels", "rotations"]
ROTATIONS = 4
ROLE = "classifier"


class ClassificationSettings(Settings):
    task: Task = Field("labels", description="what is told apart: the data's labels, or four rotations of every image")


class Classification(Objective):
    """Cross-entropy of one player, the classifier."""

    family: ClassVar[str] = "classifier"
    settings_type = ClassificationSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, ClassificationSettings)
        outputs = classes if settings.task == "labels" else ROTATIONS
        if outputs < 2:
            raise ValueError(f"labels of {classes} classes tell nothing apart; 2 are needed, or the task `rotations`")
        return {ROLE: Port("image_to_vector", image, outputs=outputs)}

    @classmethod
    def exported_role(cls) -> str:
        return ROLE

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        assert isinstance(settings, ClassificationSettings)
        self.settings = settings
        self.exported = networks[ROLE]
        self.players = [Player(ROLE, self.exported)]

    def loss(self, player: Player, batch: Batch) -> Loss:
        images, answers = self.question(batch)
        logits = player.module(images)
        accuracy = (logits.detach().argmax(dim=1) == answers).float().mean()
        return Loss(F.cross_entropy(logits, answers), {"accuracy": accuracy})

    def question(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images to look at, (n, c, h, w), and the right answers, (n,). Rotations are drawn from torch's generator."""
        if self.settings.task == "rotations":
            turns = torch.randint(ROTATIONS, (len(batch),), device=batch.images.device)
            return turned(batch.images, turns), turns
        if batch.labels is None:
            raise ValueError("this batch has no labels to learn; the task `rotations` needs none")
        return batch.images, batch.labels


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """The central squares of images (n, c, h, w), each turned counter-clockwise by its number of quarter turns (n,)."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[:, :, top : top + side, left : left + side]
    every = torch.stack([square.rot90(quarter, (2, 3)) for quarter in range(ROTATIONS)])  # (4, n, c, side, side)
    return every[turns, torch.arange(len(turns), device=turns.device)]
