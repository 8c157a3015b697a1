"""Consistency training: the denoiser learns to give, at every noise level of a trajectory, the same clean image.

The loss (Song et al. 2023, "Consistency models", eq. 10; improved by Song & Dhariwal 2024) compares the network at a
noise level t with itself at a smaller one r, on the same image under the same noise, and moves only the former:

    d(D(clean + t noise, t), D(clean + r noise, r)) / (t - r),    D(x, 0) = x,

with the pseudo-Huber distance d(a, b) = sqrt(|a - b|^2 + c^2) - c, c = 0.00054 sqrt(values of an image) (Song &
Dhariwal 2024, section 3.3). As r approaches t, D becomes the map from any point of the probability-flow ODE to its end,
so that one evaluation draws an image.

How close r is follows Geng et al. 2024, "Consistency models made easy" (arXiv:2406.14548), section 3.2: every stage
divides (t - r) / t by `ratio`. In stage 0 it is 1, r is 0 and D learns to denoise, which is their point: a consistency
function is a denoiser that is led on. They begin with one that is trained; here stage 0 trains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port
from genforge.networks.autoguided import Autoguided
from genforge.networks.denoiser import Denoiser
from genforge.objectives.conditioning import check_conditioning
from genforge.objectives.denoising import evenly_spread
from genforge.settings import Settings, UserError

SHORTEST_WAY = 16  # (t - r) / t is 2^-16 at least, which float32 tells from 0 to half a percent
HUBER = 0.00054  # c of the distance, for images of one value
CLOSE = 0.1  # how near the preconditioning has to be to D(x, 0) = x at the smallest noise level


class ConsistencySettings(Settings):
    stage_steps: int = Field(
        250,
        ge=1,
        description="steps a stage: in stage 0 the network learns to denoise, in each later one to agree with itself "
        "over a shorter way",
    )
    stages: int = Field(8, ge=0, le=30, description="stages after stage 0, the last of which goes on to the end")
    ratio: float = Field(2.0, gt=1.0, description="what each stage divides the way by (Geng 2024: 2)")
    stretch: float = Field(
        8.0, ge=0.0, description="at small noise levels the way is up to 1 + stretch / 2 times as long (Geng 2024: 8)"
    )
    conditional: bool = Field(False, description="give the denoiser the labels")

    @model_validator(mode="after")
    def _a_way_that_can_be_told(self) -> ConsistencySettings:
        most = int(SHORTEST_WAY / math.log2(self.ratio))
        if self.stages > most:
            raise ValueError(
                f"with at most {most} stages where each divides the way by {self.ratio:g}, not {self.stages}: in "
                f"float32 the two noise levels would become one"
            )
        return self


class Consistency(Objective):
    """One player, `denoiser`, which is exported: a denoiser by its port, a consistency function by what it learns."""

    family: ClassVar[str] = "diffusion"
    settings_type = ConsistencySettings
    in_steps = ("stage_steps",)

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, ConsistencySettings)
        labels = classes if settings.conditional else 0
        return {"denoiser": Port("denoiser", image, classes=labels, taught="consistency")}

    @classmethod
    def exported_role(cls) -> str:
        return "denoiser"

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        denoiser = networks["denoiser"]
        assert isinstance(settings, ConsistencySettings) and isinstance(denoiser, Denoiser)
        check_conditioning(settings.conditional, denoiser.port)
        self.settings = settings
        self.denoiser = self.exported = denoiser
        self.players = [Player("denoiser", denoiser)]
        self.steps = 0
        self.smallest = denoiser.sigma_range()[0]
        if isinstance(denoiser, Autoguided):
            raise UserError(
                "objective: consistency teaches one denoiser, and an autoguided-denoiser has a guide beside it, which "
                "would learn nothing; name its `main` alone, or take the objective denoising"
            )
        self._check_boundary()

    def _check_boundary(self) -> None:
        """Without D(x, 0) = x the network could agree with itself by giving the same image everywhere."""
        scales = self.denoiser.scales(torch.tensor([self.smallest]))
        if abs(scales.skip.item() - 1) > CLOSE or abs(scales.out.item()) > CLOSE:
            raise UserError(
                f"objective: a consistency function has to leave images without noise as they are, and this denoiser "
                f"does not: at noise level {self.smallest:g} it gives {scales.skip.item():.2g} of the noisy image and "
                f"{scales.out.item():.2g} of its network's answer; take edm-denoiser, or flow-matching-denoiser, or "
                f"ddpm-denoiser with prediction noise or velocity"
            )

    @property
    def stage(self) -> int:
        return min(self.steps // self.settings.stage_steps, self.settings.stages)

    def loss(self, player: Player, batch: Batch) -> Loss:
        clean = batch.images
        labels = batch.labels if self.settings.conditional else None
        noise = torch.randn_like(clean)
        t = self.denoiser.training_sigma(evenly_spread(len(batch), clean.device))
        r = self.shorter(t)
        answer_there = self._teach(clean + _wide(r) * noise, clean, r, labels)
        answer_here = self.denoiser(clean + _wide(t) * noise, t, labels)
        c = HUBER * clean[0].numel() ** 0.5
        distance = ((answer_here - answer_there).square().flatten(1).sum(dim=1) + c**2).sqrt() - c  # (n,)
        value = (distance / (t - r)).mean()
        gap = ((t - r) / t).mean()
        return Loss(value, {"loss": value.detach(), "gap": gap.detach()})

    def shorter(self, t: Tensor) -> Tensor:
        """The noise levels r that t is compared with at this stage, (n,). Geng et al. 2024, eq. 12."""
        stretched = 1 + self.settings.stretch * torch.sigmoid(-t)
        way = (stretched / self.settings.ratio**self.stage).clamp(max=1)
        return t * (1 - way)

    @torch.no_grad()
    def _teach(self, noisy: Tensor, clean: Tensor, r: Tensor, labels: Tensor | None) -> Tensor:
        """D at r, which the answer at t is to come to; under the same dropout, so that no chance stands between them
        (Song & Dhariwal 2024, section 3.1)."""
        if self.stage == 0:
            return clean
        with torch.random.fork_rng(devices=[clean.device] if clean.is_cuda else []):
            answer = self.denoiser(noisy, r.clamp(min=self.smallest), labels)
        return torch.where(_wide(r) > self.smallest, answer, clean)

    def after_step(self, player: Player) -> None:
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])


def _wide(values: Tensor) -> Tensor:
    """(n,) to (n, 1, 1, 1)."""
    return values[:, None, None, None]
