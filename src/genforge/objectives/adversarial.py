"""Adversarial training (Goodfellow et al. 2014): a generator and a critic take turns.

The turns are data: the critic plays at every step, the generator at every `critic_steps`-th. What each minimises is a
pair of formulas in `gan_losses.py`; what steadies the critic is in `penalties.py` and `augmentation.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port, WithFeatures
from genforge.objectives.adversarial_settings import AdversarialSettings, check_critic, normalises_batches
from genforge.objectives.augmentation import augment
from genforge.objectives.conditioning import check_conditioning
from genforge.objectives.gan_losses import LOSSES
from genforge.objectives.penalties import gradient_penalty, squared_slopes, zero_centred
from genforge.settings import Settings


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
        check_critic(settings, networks["critic"])
        self.settings = settings
        self.formulas = LOSSES[settings.loss]
        self.generator, self.critic = networks["generator"], networks["critic"]
        self.exported = self.generator
        self.players = [
            Player("critic", self.critic),
            Player("generator", self.generator, every=settings.critic_steps),
        ]
        # Batch normalisation would mix real and fake statistics, which tells the critic nothing it sees in evaluation.
        self.mixed_pass = not normalises_batches(self.critic)
        self.differentiates_gradients = bool(settings.slope_penalties)
        self.critic_turns = 0  # that the critic has had, which decide how strong the instance noise is

    def loss(self, player: Player, batch: Batch) -> Loss:
        return self._critic_loss(batch) if player.name == "critic" else self._generator_loss(batch)

    @torch.no_grad()
    def after_step(self, player: Player) -> None:
        if player.name != "critic":
            return
        self.critic_turns += 1
        if (limit := self.settings.weight_clip) is not None:
            for weight in self.critic.parameters():
                weight.clamp_(-limit, limit)

    def state(self) -> dict[str, Tensor]:
        return {"critic_turns": torch.tensor(self.critic_turns)} if self.settings.instance_noise_turns else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self.settings.instance_noise_turns:
            self.critic_turns = int(state["critic_turns"])

    def _critic_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            fake_images = self._shown(self._fake(batch))
            real_images = self._shown(batch.images)
        zero_centred_wanted = bool(self.settings.r1 or self.settings.r2)
        if zero_centred_wanted:
            real_images, fake_images = real_images.detach().requires_grad_(), fake_images.detach().requires_grad_()
        real, fake = self._outputs(real_images, fake_images, batch.labels)
        value = self._told(real, fake)
        logs = {"critic_loss": value.detach(), "critic_real": real.detach().mean(), "critic_fake": fake.detach().mean()}

        # Slopes are those at the images as the critic is shown them.
        penalties: dict[str, Tensor] = {}
        if zero_centred_wanted:
            at_real, at_fake = squared_slopes(torch.cat([real, fake]), real_images, fake_images)
            penalties |= {"r1": zero_centred(at_real), "r2": zero_centred(at_fake)}
        if self.settings.gradient_penalty:
            penalties["gradient_penalty"] = gradient_penalty(
                lambda images: self.critic(images, batch.labels).float(), real_images, fake_images
            )
        for name, weight in self.settings.slope_penalties.items():
            value = value + weight * penalties[name]
            logs[name] = penalties[name].detach()
        return Loss(value, logs)

    def _generator_loss(self, batch: Batch) -> Loss:
        fake_images = self._shown(self._fake(batch))
        matching = self.settings.feature_matching
        real_images = self._shown(batch.images) if self.formulas.needs_real or matching else None
        if self.formulas.needs_real:
            assert real_images is not None
            real, fake = self._outputs(real_images, fake_images, batch.labels)
        else:
            real, fake = None, self.critic(fake_images, batch.labels).float()
        value = self.formulas.generator(real, fake)
        logs = {"generator_loss": value.detach()}
        if matching:
            assert real_images is not None
            distance = self._feature_distance(real_images, fake_images, batch.labels)
            value = value + matching * distance
            logs["feature_distance"] = distance.detach()
        return Loss(value, logs)

    def _fake(self, batch: Batch) -> Tensor:
        """As many generated images as the batch holds real ones, of the same labels."""
        latent = torch.randn(len(batch), self.settings.latent_size, device=batch.images.device)
        return self.generator(latent, batch.labels)

    def _shown(self, images: Tensor) -> Tensor:
        """What the critic gets to see of the images: augmented, under noise, or as they are."""
        images = augment(images, self.settings.augmentation)
        noise = self.noise()
        return images + noise * torch.randn_like(images) if noise else images

    def noise(self) -> float:
        """Standard deviation of the instance noise now."""
        noise, turns = self.settings.instance_noise, self.settings.instance_noise_turns
        return noise if turns is None else noise * max(0.0, 1.0 - self.critic_turns / turns)

    def _told(self, real: Tensor, fake: Tensor) -> Tensor:
        """The critic's loss on its outputs, some of them told the wrong way round, with softened labels."""
        if share := self.settings.label_flipping:
            flipped = torch.rand_like(real) < share
            real, fake = torch.where(flipped, fake, real), torch.where(flipped, real, fake)
        if smoothing := self.settings.label_smoothing:
            return self.formulas.critic(real, fake, target=1.0 - smoothing)
        return self.formulas.critic(real, fake)

    def _feature_distance(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        """|E[f(x)] - E[f(G(z))]|^2, f being the critic's last features. Salimans et al. 2016, section 3.1."""
        critic = self.critic
        assert isinstance(critic, WithFeatures)
        with torch.no_grad():
            wanted = critic.features(real, labels).float().mean(dim=0)
        return (wanted - critic.features(fake, labels).float().mean(dim=0)).square().sum()

    def _outputs(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The critic's outputs on real and on fake images, each (n, 1), float32."""
        if not self.mixed_pass:
            return self.critic(real, labels).float(), self.critic(fake, labels).float()
        twice = None if labels is None else torch.cat([labels, labels])
        real_outputs, fake_outputs = self.critic(torch.cat([real, fake]), twice).float().chunk(2)
        return real_outputs, fake_outputs
