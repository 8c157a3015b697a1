"""Maximum likelihood of images, value by value: the mean negative log-likelihood, which is exact.

Van den Oord et al. 2016, "Pixel recurrent neural networks", section 2. The loss is in nats a value, so that its size
does not hang on the image's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port
from genforge.objectives.conditioning import check_conditioning
from genforge.settings import Settings

ROLE = "network"


class AutoregressiveSettings(Settings):
    conditional: bool = Field(False, description="give the network the labels")


class Autoregressive(Objective):
    """One player, `network`, which is exported."""

    family: ClassVar[str] = "autoregressive"
    settings_type = AutoregressiveSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, AutoregressiveSettings)
        return {ROLE: Port("autoregressive", image, classes=classes if settings.conditional else 0)}

    @classmethod
    def exported_role(cls) -> str:
        return ROLE

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        assert isinstance(settings, AutoregressiveSettings)
        check_conditioning(settings.conditional, networks[ROLE].port)
        self.exported = networks[ROLE]
        self.players = [Player(ROLE, self.exported)]

    def loss(self, player: Player, batch: Batch) -> Loss:
        value = -self.exported(batch.images, batch.labels).mean()
        return Loss(value, {"loss": value.detach(), "bits_per_dimension": value.detach() / math.log(2.0)})
