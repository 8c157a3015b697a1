"""Maximum likelihood where it has a closed form or an algorithm of its own: no players, no steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port, TrainingData
from genforge.networks.baselines import Baseline, latent_size
from genforge.settings import Settings, UserError


class ClosedFormSettings(Settings):
    """There is nothing to set: what a baseline assumes is its network's affair."""


class ClosedForm(Objective):
    """`prepare` does all the work: the network fits itself to the training split."""

    family: ClassVar[str] = "baseline"
    settings_type = ClosedFormSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        return {"network": Port("latent_to_image", image, latent_size=latent_size(image))}

    @classmethod
    def exported_role(cls) -> str:
        return "network"

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        network = networks["network"]
        if not isinstance(network, Baseline):
            raise UserError(
                f"objective 'closed-form' trains networks that fit themselves (box, gaussian, mixture, "
                f"kernel-density), not a {type(network).__name__}; choose one of these for networks.network, or "
                f"another objective"
            )
        self.network = self.exported = network
        self.players = []

    def prepare(self, data: TrainingData) -> None:
        self.network.fit(data)

    def loss(self, player: Player, batch: Batch) -> Loss:
        raise LookupError("what has a closed form has no players, so no turn and no loss")
