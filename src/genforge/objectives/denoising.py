"""Denoising: the one loss of every diffusion model, weight(sigma) * |D(clean + sigma * noise, sigma) - clean|^2.

Karras et al. 2022, eq. 8. Which noise levels are drawn, and the weight at which the backbone's own output has squared
error one, are the denoiser's; with a DDPM that predicts noise this is L_simple of Ho et al. 2020, eq. 14, and with
flow matching the squared error of the velocity, Lipman et al. 2022, eq. 23.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port, TrainingData
from genforge.networks.autoguided import Autoguided
from genforge.networks.denoiser import Denoiser
from genforge.objectives.conditioning import check_conditioning
from genforge.settings import Settings, UserError


class DenoisingSettings(Settings):
    weighting: Literal["output", "min-snr"] = Field(
        "output",
        description="output: the backbone's own squared error. min-snr: the clean image's, at most `snr_limit` times "
        "(Hang et al. 2023)",
    )
    snr_limit: float = Field(5.0, gt=0.0, description="min-snr: the largest weight")
    conditional: bool = Field(False, description="give the denoiser the labels")
    label_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of images whose label is withheld, so that the sampler can guide (Ho & Salimans 2022, "
        "Algorithm 1; they use 0.1)",
    )
    guide_every: int = Field(
        4, ge=1, description="of an autoguided-denoiser: the guide learns in every so many-th step, so less than main"
    )
    guide_until: int | None = Field(
        None,
        ge=1,
        description="of an autoguided-denoiser whose main and guide have the same settings: the guide is main as it "
        "was after so many steps, and learns nothing of its own. null: it learns by guide_every",
    )

    @model_validator(mode="after")
    def _labels_to_drop(self) -> DenoisingSettings:
        if self.label_dropout and not self.conditional:
            raise ValueError("with conditional: true, or label_dropout: 0; without labels none can be withheld")
        return self


class Denoising(Objective):
    """One player, `denoiser`, which is exported; and where that has a guide that learns, `guide`."""

    family: ClassVar[str] = "diffusion"
    settings_type = DenoisingSettings
    in_steps = ("guide_until",)

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, DenoisingSettings)
        unlabelled = settings.label_dropout > 0
        return {
            "denoiser": Port("denoiser", image, classes=classes if settings.conditional else 0, unlabelled=unlabelled)
        }

    @classmethod
    def exported_role(cls) -> str:
        return "denoiser"

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        denoiser = networks["denoiser"]
        assert isinstance(settings, DenoisingSettings) and isinstance(denoiser, Denoiser)
        check_conditioning(settings.conditional, denoiser.port)
        self.settings = settings
        self.denoiser = self.exported = denoiser
        self.players = [Player("denoiser", denoiser)]
        if isinstance(denoiser, Autoguided):
            self.players = [Player("denoiser", denoiser.main), Player("guide", denoiser.guide, settings.guide_every)]
        self.steps = 0
        if settings.guide_until is not None:
            self.players = self.players[:1]
            self._check_guide(settings.guide_until)
            self._follow()

    def _check_guide(self, until: int) -> None:
        if not isinstance(self.denoiser, Autoguided):
            raise UserError(
                f"objective.guide_until is {until}, but there is no guide; start from the recipe autoguided-edm, or "
                f"leave guide_until out"
            )
        if not self.denoiser.guide_can_be_main():
            raise UserError(
                f"objective.guide_until is {until}: the guide is to be main as it was then, so "
                f"networks.denoiser.guide should have the settings of networks.denoiser.main; give both the same, or "
                f"leave guide_until out"
            )

    def _follow(self) -> None:
        assert isinstance(self.denoiser, Autoguided)
        self.denoiser.guide.load_state_dict(self.denoiser.main.state_dict())

    def loss(self, player: Player, batch: Batch) -> Loss:
        clean, taught = batch.images, player.module
        assert isinstance(taught, Denoiser)
        sigma = taught.training_sigma(evenly_spread(len(batch), clean.device))
        noisy = clean + sigma[:, None, None, None] * torch.randn_like(clean)
        labels = self._with_some_withheld(batch.labels)
        error = (taught(noisy, sigma, labels) - clean).square().flatten(1).mean(dim=1)  # (n,)
        value = (self._weight(sigma, taught) * error).mean()
        return Loss(value, {"loss": value.detach()})

    def after_step(self, player: Player) -> None:
        if self.settings.guide_until is not None:
            self.steps += 1
            if self.steps <= self.settings.guide_until:
                self._follow()

    def check_steps(self, steps: int) -> None:
        until = self.settings.guide_until
        if until is not None and steps <= until:
            raise UserError(
                f"objective.guide_until is {until}, but training ends after {steps} steps, so that the guide would be "
                f"main itself and lead nowhere; set it to a part of training.steps, such as a third"
            )

    def finish(self, data: TrainingData) -> None:
        self.check_steps(self.steps)

    def state(self) -> dict[str, Tensor]:
        return {} if self.settings.guide_until is None else {"steps": torch.tensor(self.steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if "steps" in state:
            self.steps = int(state["steps"])

    def _with_some_withheld(self, labels: Tensor | None) -> Tensor | None:
        if labels is None or not self.settings.label_dropout:
            return labels
        withheld = torch.rand(len(labels), device=labels.device) < self.settings.label_dropout
        return labels.masked_fill(withheld, self.denoiser.port.classes)

    def _weight(self, sigma: Tensor, taught: Denoiser) -> Tensor:
        if self.settings.weighting == "min-snr":
            # Hang et al. 2023, section 3.4. On the clean image it reads the same whatever the backbone predicts.
            return sigma.pow(-2).clamp(max=self.settings.snr_limit)
        return taught.weight(sigma)


def evenly_spread(count: int, device: torch.device) -> Tensor:
    """`count` numbers, each uniform in [0, 1), together spread evenly: (count,).

    The loss varies less from step to step than with independent ones (Kingma et al. 2021, "Variational diffusion
    models", appendix I.1).
    """
    start = torch.rand((), device=device)
    return (start + torch.arange(count, device=device) / count) % 1.0
