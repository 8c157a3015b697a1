"""Contrastive divergence with persistent chains: real images down, what the energy itself draws up.

The gradient of the log-likelihood of exp(-E) / Z is the mean slope of E over samples less that over data (Hinton 2002,
"Training products of experts by minimizing contrastive divergence", eq. 2). Samples come from short Langevin chains
that go on from where earlier ones ended (Tieleman 2008), kept in a replay buffer, of which some begin anew (Du &
Mordatch 2019, "Implicit generation and modeling with energy based models", section 3.2). As there, the squares of both
energies are kept small, so that they do not wander off together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port
from genforge.samplers.langevin import walk
from genforge.settings import Settings


class ContrastiveDivergenceSettings(Settings):
    steps: int = Field(20, ge=1, le=1000, description="Langevin steps a chain takes in one turn")
    step_size: float = Field(
        0.03, gt=0.0, le=1.0, description="standard deviation of each step's noise, of pixels in [-1, 1]"
    )
    limit: float | None = Field(
        None,
        gt=0.0,
        le=2.0,
        description="how far the slope may move a pixel in one step, lest chains run away where the landscape is steep "
        "(Du & Mordatch 2019 limit slopes too); null: freely",
    )
    buffer: int = Field(2048, ge=1, le=1_000_000, description="chains that are kept")
    restart: float = Field(
        0.05, ge=0.0, le=1.0, description="share of the chains of a turn that begin anew, at uniform noise"
    )
    regularisation: float = Field(0.001, ge=0.0, description="weight of the squared energies; nats squared")
    noise: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="standard deviation of noise on real images, lest levels of 8 bits be told apart",
    )


class ContrastiveDivergence(Objective):
    """One player, `energy`, which is exported. The chains are its state."""

    family: ClassVar[str] = "energy"
    settings_type = ContrastiveDivergenceSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        return {"energy": Port("energy", image)}

    @classmethod
    def exported_role(cls) -> str:
        return "energy"

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        assert isinstance(settings, ContrastiveDivergenceSettings)
        self.settings = settings
        self.energy = self.exported = networks["energy"]
        self.players = [Player("energy", self.energy)]
        self.chains: Tensor | None = None  # (buffer, c, h, w), where each was left

    def loss(self, player: Player, batch: Batch) -> Loss:
        drawn = self._drawn(batch.images)
        real = self.energy(batch.images + self.settings.noise * torch.randn_like(batch.images))
        sampled = self.energy(drawn)
        squares = real.square().mean() + sampled.square().mean()
        value = real.mean() - sampled.mean() + self.settings.regularisation * squares
        return Loss(
            value,
            {
                "loss": value.detach(),
                "energy_real": real.detach().mean(),
                "energy_sampled": sampled.detach().mean(),
            },
        )

    def _drawn(self, like: Tensor) -> Tensor:
        """As many samples as there are images, from chains that go on and are put back."""
        if self.chains is None:
            self.chains = _uniform(like.new_empty(self.settings.buffer, *like.shape[1:]))
        self.chains = self.chains.to(like.device)
        chosen = torch.randint(len(self.chains), (len(like),), device=like.device)
        anew = torch.rand(len(like), 1, 1, 1, device=like.device) < self.settings.restart
        begin = torch.where(anew, _uniform(torch.empty_like(like)), self.chains[chosen])
        training = self.energy.training
        self.energy.eval()  # a walk is no lesson: what counts passes in training stands still
        steps, size = self.settings.steps, self.settings.step_size
        drawn = walk(self.energy, begin, steps, size, lambda step: torch.randn_like(begin), self.settings.limit)
        self.energy.train(training)
        self.chains[chosen] = drawn
        return drawn

    def state(self) -> dict[str, Tensor]:
        return {} if self.chains is None else {"chains": self.chains}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.chains = state.get("chains")


def _uniform(like: Tensor) -> Tensor:
    """Noise over [-1, 1]."""
    return like.uniform_(-1.0, 1.0)
