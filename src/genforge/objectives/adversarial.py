"""Adversarial training (Goodfellow et al. 2014): a generator and a critic take turns.

The turns are data: the critic plays at every step, the generator at every `critic_steps`-th. What each minimises is a
pair of formulas in `gan_losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port
from genforge.objectives.conditioning import check_conditioning
from genforge.objectives.gan_losses import LOSSES
from genforge.settings import Settings, nearest


class AdversarialSettings(Settings):
    loss: str = Field("hinge", description=f"what the players minimise: {', '.join(LOSSES)}")
    latent_size: int = Field(64, ge=1, le=4096, description="length of the generator's latent vector, standard normal")
    critic_steps: int = Field(1, ge=1, le=100, description="turns of the critic for each turn of the generator")
    conditional: bool = Field(False, description="give both players the labels")

    @field_validator("loss")
    @classmethod
    def _loss(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(f"one of {', '.join(LOSSES)}; {nearest(loss, list(LOSSES))}")
        return loss


class Adversarial(Objective):
    """Two players, `critic` and `generator`; the generator is exported."""

    family: ClassVar[str] = "GAN"
    settings_type = AdversarialSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, AdversarialSettings)
        classes = classes if settings.conditional else 0
        return {
            "generator": Port("latent_to_image", image, latent_size=settings.latent_size, classes=classes),
            "critic": Port("image_to_vector", image, outputs=1, classes=classes),
        }

    @classmethod
    def exported_role(cls) -> str:
        return "generator"

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        assert isinstance(settings, AdversarialSettings)
        check_conditioning(settings.conditional, networks["generator"].port)
        self.settings = settings
        self.formulas = LOSSES[settings.loss]
        self.generator, self.critic = networks["generator"], networks["critic"]
        self.exported = self.generator
        self.players = [
            Player("critic", self.critic),
            Player("generator", self.generator, every=settings.critic_steps),
        ]
        # Batch normalisation would mix real and fake statistics, which tells the critic nothing it sees in evaluation.
        self.mixed_pass = not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in self.critic.modules())

    def loss(self, player: Player, batch: Batch) -> Loss:
        return self._critic_loss(batch) if player.name == "critic" else self._generator_loss(batch)

    def _critic_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            fake_images = self._fake(batch)
        real, fake = self._outputs(batch.images, fake_images, batch.labels)
        value = self.formulas.critic(real, fake)
        logs = {"critic_loss": value.detach(), "critic_real": real.detach().mean(), "critic_fake": fake.detach().mean()}
        return Loss(value, logs)

    def _generator_loss(self, batch: Batch) -> Loss:
        fake_images = self._fake(batch)
        if self.formulas.needs_real:
            real, fake = self._outputs(batch.images, fake_images, batch.labels)
        else:
            real, fake = None, self.critic(fake_images, batch.labels).float()
        value = self.formulas.generator(real, fake)
        return Loss(value, {"generator_loss": value.detach()})

    def _fake(self, batch: Batch) -> Tensor:
        """As many generated images as the batch holds real ones, of the same labels."""
        latent = torch.randn(len(batch), self.settings.latent_size, device=batch.images.device)
        return self.generator(latent, batch.labels)

    def _outputs(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The critic's outputs on real and on fake images, each (n, 1), float32."""
        if not self.mixed_pass:
            return self.critic(real, labels).float(), self.critic(fake, labels).float()
        twice = None if labels is None else torch.cat([labels, labels])
        real_outputs, fake_outputs = self.critic(torch.cat([real, fake]), twice).float().chunk(2)
        return real_outputs, fake_outputs
