"""Adversarial training (Goodfellow et al. 2014): a generator and a critic take turns.

The turns are data: the critic plays at every step, the generator at every `critic_steps`-th. What each minimises is a
pair of formulas in `gan_losses.py`; what steadies the critic is in `penalties.py`, `augmentation.py` and
`adaptive_augmentation.py`; what a style-based generator is told beside, in `path_length.py` and `style_mixing.py`; how
networks grow, in `growth.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genforge.contracts import (
    Batch,
    ImageShape,
    Loss,
    Network,
    Objective,
    Player,
    Port,
    TrainingData,
    WithFeatures,
    WithStyles,
)
from genforge.networks.progressive import Growing
from genforge.objectives.adaptive_augmentation import Adaptation, sureness, vary
from genforge.objectives.adversarial_settings import AdversarialSettings, check_critic, check_generator, looks_across
from genforge.objectives.augmentation import augment
from genforge.objectives.conditioning import check_conditioning
from genforge.objectives.gan_losses import LOSSES
from genforge.objectives.growth import stage_at, turns_to_grow
from genforge.objectives.path_length import PathLength, path_lengths
from genforge.objectives.penalties import gradient_penalty, squared_slopes, zero_centred
from genforge.objectives.style_mixing import mixed
from genforge.progress import say
from genforge.settings import Settings


@dataclass(frozen=True)
class Drawn:
    """What the generator drew in the critic's turn for both turns of a step: images (n, c, h, w) with all that is
    needed for its slope, and the batch beside which they were drawn, whose labels they have."""

    images: Tensor
    batch: Batch


class Adversarial(Objective):
    """Two players, `critic` and `generator`; the generator is exported."""

    family: ClassVar[str] = "GAN"
    trial_share: ClassVar[float] = 0.6  # earlier, quick generators are ahead that get worse later (docs/benchmarks.md)
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
        check_generator(settings, networks["generator"], networks["critic"])
        self.settings = settings
        self.formulas = LOSSES[settings.loss]
        self.generator, self.critic = networks["generator"], networks["critic"]
        self.learned = [weight for weight in self.generator.parameters() if weight.requires_grad]
        self.exported = self.generator
        self.players = [
            Player("critic", self.critic),
            Player("generator", self.generator, every=settings.critic_steps),
        ]
        # One pass over both would let an image's output depend on images of the other kind, which tells the critic
        # nothing that it sees in evaluation.
        self.mixed_pass = not looks_across(self.critic)
        self.differentiates_gradients = bool(settings.slope_penalties or settings.path_length)
        # Turns that each player has had: they decide how strong the instance noise is, which turns have penalties, and
        # how far the networks have grown.
        self.critic_turns = self.generator_turns = 0
        adapts = bool(settings.adaptive_augmentation)
        self.adaptation = Adaptation(settings.adaptive_target, settings.adaptive_images) if adapts else None
        self.path_length = PathLength() if settings.path_length else None
        # Between the turns of a step alone, so that no checkpoint is without it.
        self.drawn: Drawn | None = None
        self._grow()

    def loss(self, player: Player, batch: Batch) -> Loss:
        return self._critic_loss(batch) if player.name == "critic" else self._generator_loss(batch)

    @torch.no_grad()
    def hear(self, player: Player, seen: Mapping[str, Tensor]) -> None:
        if self.adaptation is not None and "sure" in seen:
            self.adaptation.settle(seen["sure"], seen["images"])
        if self.path_length is not None and "path_length" in seen:
            self.path_length.settle(seen["path_length"])

    @torch.no_grad()
    def after_step(self, player: Player) -> None:
        if player.name == "generator":
            self.generator_turns += 1
            return
        self.critic_turns += 1
        if (limit := self.settings.weight_clip) is not None:
            for weight in self.critic.parameters():
                weight.clamp_(-limit, limit)
        self._grow()

    def finish(self, data: TrainingData) -> None:
        growth, generator = self.settings.growth, self.generator
        if growth is not None and isinstance(generator, Growing) and float(generator.stage) < generator.stages:
            say(
                f"training ended after {self.critic_turns} turns of the critic, but the networks are fully grown after "
                f"{turns_to_grow(growth, generator.stages)}: images are coarser than they could be; raise "
                f"training.steps, or lower objective.growth"
            )

    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        if self.settings.counts_critic_turns:
            state["critic_turns"] = torch.tensor(self.critic_turns)
        if self.adaptation is not None:
            state["adaptive_strength"] = self.adaptation.strength
        if self.path_length is not None:
            state |= {"generator_turns": torch.tensor(self.generator_turns), "mean_path_length": self.path_length.mean}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.drawn = None
        if self.settings.counts_critic_turns:
            self.critic_turns = int(state["critic_turns"])
            self._grow()
        if self.adaptation is not None:
            self.adaptation.strength = state["adaptive_strength"]
        if self.path_length is not None:
            self.generator_turns, self.path_length.mean = int(state["generator_turns"]), state["mean_path_length"]

    @torch.no_grad()
    def examine(self, training: Batch, held_out: Batch) -> dict[str, Tensor]:
        """What the critic gives real images that it was trained on, others, and generated ones; and how much of its
        advantage it owes to having seen them (`critic_overfitting`, r_v of Karras et al. 2020, ADA, eq. 1): 0 where it
        does not tell both kinds of real images apart, 1 where it takes those it has not seen for generated ones."""
        networks = (self.generator, self.critic)
        modes = [(module, module.training) for network in networks for module in network.modules()]
        for network in networks:
            network.eval()
        try:
            latent = torch.randn(len(training), self.settings.latent_size, device=training.images.device)
            of_fake = self.critic(self.generator(latent, training.labels), training.labels).float().mean()
            of_training, of_held_out = (
                self.critic(self._at_this_size(batch.images), batch.labels).float().mean()
                for batch in (training, held_out)
            )
        finally:
            for module, was_training in modes:
                module.training = was_training
        advantage = of_training - of_fake
        overfitting = torch.where(advantage > 0, (of_training - of_held_out) / advantage, torch.zeros_like(advantage))
        return {
            "critic_on_training": of_training,
            "critic_on_held_out": of_held_out,
            "critic_overfitting": overfitting.clamp(-1.0, 1.0),
        }

    def _critic_loss(self, batch: Batch) -> Loss:
        images = self._drawn_for_both(batch) if self.settings.same_images and batch.parts == 1 else None
        with torch.no_grad():
            fake_images = self._shown(self._fake(batch) if images is None else images)
            real_images = self._shown(self._at_this_size(batch.images))
        is_due = self.critic_turns % self.settings.penalties_every == 0
        weights = self.settings.slope_penalties if is_due else {}
        zero_centred_wanted = "r1" in weights or "r2" in weights
        if zero_centred_wanted:
            real_images, fake_images = real_images.detach().requires_grad_(), fake_images.detach().requires_grad_()
        real, fake = self._outputs(real_images, fake_images, batch.labels)
        value = self._told(real, fake)
        logs = {"critic_loss": value.detach(), "critic_real": real.detach().mean(), "critic_fake": fake.detach().mean()}
        seen: dict[str, Tensor] = {}
        if self.adaptation is not None:
            assert self.formulas.boundary is not None
            sure = sureness(real - self.formulas.boundary)
            seen = {"sure": sure, "images": torch.full_like(sure, len(batch) * batch.parts)}
            logs["augmentation_strength"] = self.adaptation.strength.to(real.device)

        # Slopes are those at the images as the critic is shown them.
        penalties: dict[str, Tensor] = {}
        if zero_centred_wanted:
            at_real, at_fake = squared_slopes(torch.cat([real, fake]), real_images, fake_images)
            penalties |= {"r1": zero_centred(at_real), "r2": zero_centred(at_fake)}
        if "gradient_penalty" in weights:
            penalties["gradient_penalty"] = gradient_penalty(
                lambda images: self.critic(images, batch.labels).float(), real_images, fake_images
            )
        for name, weight in weights.items():
            value = value + weight * self.settings.penalties_every * penalties[name]
            logs[name] = penalties[name].detach()
        return Loss(value, logs, seen)

    def _generator_loss(self, batch: Batch) -> Loss:
        if self.drawn is None:
            images = self._fake(batch)
        else:
            (images, batch), self.drawn = (self.drawn.images, self.drawn.batch), None
        fake_images = self._shown(images)
        matching = self.settings.feature_matching
        wanted = self.formulas.needs_real or matching
        real_images = self._shown(self._at_this_size(batch.images)) if wanted else None
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
        seen: dict[str, Tensor] = {}
        every = self.settings.path_length_every
        if self.path_length is not None and self.generator_turns % every == 0:
            assert isinstance(self.generator, WithStyles)
            lengths = path_lengths(self.generator, self._latent(batch), batch.labels)
            value = value + self.settings.path_length * every * self.path_length.penalty(lengths)
            seen["path_length"] = logs["path_length"] = lengths.detach().mean()
        return Loss(value, logs, seen)

    def _latent(self, batch: Batch) -> Tensor:
        """As many latents as the batch holds images."""
        return torch.randn(len(batch), self.settings.latent_size, device=batch.images.device)

    def _fake(self, batch: Batch) -> Tensor:
        """As many generated images as the batch holds real ones, of the same labels."""
        latent = self._latent(batch)
        if self.settings.style_mixing and isinstance(self.generator, WithStyles):
            return mixed(self.generator, latent, batch.labels, self.settings.style_mixing)
        return self.generator(latent, batch.labels)

    def _drawn_for_both(self, batch: Batch) -> Tensor:
        """Generated images for this turn of the critic, kept for the generator's next: (n, c, h, w), without slope."""
        with _learning(self.learned):
            self.drawn = Drawn(self._fake(batch), batch)
        return self.drawn.images.detach()

    def _grow(self) -> None:
        """Both networks to the stage of this turn."""
        if self.settings.growth is not None:
            for network in (self.generator, self.critic):
                assert isinstance(network, Growing)
                network.grow(stage_at(self.critic_turns, self.settings.growth, network.stages))

    def _at_this_size(self, images: Tensor) -> Tensor:
        """Real images as they are while networks grow."""
        return self.generator.reduced(images) if isinstance(self.generator, Growing) else images

    def _shown(self, images: Tensor) -> Tensor:
        """What the critic gets to see of the images: augmented, under noise, or as they are."""
        if self.adaptation is not None:
            images = vary(images, self.settings.adaptive_augmentation, self.adaptation.strength)
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


@contextlib.contextmanager
def _learning(weights: list[nn.Parameter]) -> Iterator[None]:
    """Within the block these weights have slopes, which the loop denies them in other players' turns."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, had in zip(weights, before, strict=True):
            weight.requires_grad_(had)
