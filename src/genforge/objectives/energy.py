"""Contrastive divergence with persistent chains: real images down, what the energy itself draws up.

The gradient of the log-likelihood of exp(-E) / Z is the mean slope of E over samples less that over data (Hinton 2002,
"Training products of experts by minimizing contrastive divergence", eq. 2). Samples come from short Langevin chains
that go on from where earlier ones ended (Tieleman 2008), kept in a replay buffer, of which some begin anew (Du &
Mordatch 2019, "Implicit generation and modeling with energy based models", section 3.2). As there, the squares of both
energies are kept small, so that they do not wander off together.

Of a batch that is cut into parts, each has its share of the buffer to itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port, of_part
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
        self.chains: dict[int, Tensor] = {}  # of each part computed here (its share of the buffer, c, h, w), as left
        self._stopped: Tensor | None = None  # those of all parts (n, c, h, w), of a run that goes on from there

    def loss(self, player: Player, batch: Batch) -> Loss:
        drawn = self._drawn(batch)
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

    def _drawn(self, batch: Batch) -> Tensor:
        """As many samples as there are images, from chains that go on and are put back."""
        like, chains = batch.images, self._chains_of(batch)
        chosen = torch.randint(len(chains), (len(like),), device=like.device)
        anew = torch.rand(len(like), 1, 1, 1, device=like.device) < self.settings.restart
        begin = torch.where(anew, _uniform(torch.empty_like(like)), chains[chosen])
        training = self.energy.training
        self.energy.eval()  # a walk is no lesson: what counts passes in training stands still
        steps, size = self.settings.steps, self.settings.step_size
        drawn = walk(self.energy, begin, steps, size, lambda step: torch.randn_like(begin), self.settings.limit)
        self.energy.train(training)
        chains[chosen] = drawn
        return drawn

    def _chains_of(self, batch: Batch) -> Tensor:
        """The part's own: as it left them, or its share of those of a run that was stopped, or noise."""
        if batch.part not in self.chains:
            share = max(1, self.settings.buffer // batch.parts)
            own = None if self._stopped is None else self._stopped.tensor_split(batch.parts)[batch.part]
            if own is None or len(own) == 0:
                own = _uniform(batch.images.new_empty(share, *batch.images.shape[1:]))
            self.chains[batch.part] = own.to(batch.images.device)
        return self.chains[batch.part]

    def after_step(self, player: Player) -> None:
        self._stopped = None  # every part has taken its share

    def state(self) -> dict[str, Tensor]:
        if self._stopped is not None:
            return {_chains(0): self._stopped}
        return {_chains(part): chains for part, chains in self.chains.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """However many parts there were, each of those that there are now takes up an equal share of all chains."""
        self.chains = {}
        self._stopped = torch.cat([state[_chains(part)] for part in range(len(state))]) if state else None


def _chains(part: int) -> str:
    return f"{of_part(part)}chains"


def _uniform(like: Tensor) -> Tensor:
    """Noise over [-1, 1]."""
    return like.uniform_(-1.0, 1.0)
