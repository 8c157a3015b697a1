"""The variational autoencoder (Kingma & Welling 2014, "Auto-encoding variational Bayes").

Minimises the negative evidence lower bound in nats an image, with the divergence weighted by beta (Higgins et al. 2017,
"beta-VAE"), raised from nothing at the beginning of training where asked for (Bowman et al. 2016; Sønderby et al.
2016), and with a part of it for free (Kingma et al. 2016, "Improved variational inference with inverse autoregressive
flow", eq. 15). What a pixel is, given the decoded image, is a network's affair (`networks/pixels.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port, TrainingData
from genforge.networks.pixels import GaussianPixels, Pixels
from genforge.objectives.conditioning import check_conditioning
from genforge.randomness import quick_uniform
from genforge.settings import Settings

CALIBRATED_ON, CALIBRATED_AT_ONCE = 10_000, 250  # images of the training split; in a batch


class VariationalSettings(Settings):
    latent_size: int = Field(16, ge=1, le=4096, description="length of the latent vector; its prior is standard normal")
    beta: float = Field(1.0, ge=0.0, description="weight of the divergence; 1 gives the bound")
    warmup_steps: int = Field(
        0, ge=0, description="steps over which the weight of the divergence rises in a straight line from 0 to beta"
    )
    free_bits: float = Field(
        0.0,
        ge=0.0,
        description="nats of divergence, the mean over a batch, that each latent dimension has for free: below, it is "
        "not pressed any further, so that fewer dimensions die",
    )
    conditional: bool = Field(False, description="give encoder and decoder the labels")


class Variational(Objective):
    """One player, `autoencoder`: encoder, decoder, and the law of pixels where it learns. The decoder is exported; the
    encoder and the law are its companions."""

    family: ClassVar[str] = "VAE"
    settings_type = VariationalSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, VariationalSettings)
        classes = classes if settings.conditional else 0
        return {
            "encoder": Port("image_to_vector", image, outputs=2 * settings.latent_size, classes=classes),
            "decoder": Port("latent_to_image", image, latent_size=settings.latent_size, classes=classes),
            "pixels": Port("pixels", image),
        }

    @classmethod
    def exported_role(cls) -> str:
        return "decoder"

    @classmethod
    def companions(cls) -> tuple[str, ...]:
        return ("encoder", "pixels")

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        assert isinstance(settings, VariationalSettings)
        check_conditioning(settings.conditional, networks["decoder"].port)
        pixels = networks["pixels"]
        assert isinstance(pixels, Pixels)
        self.settings, self.networks, self.pixels = settings, networks, pixels
        self.encoder, self.decoder = networks["encoder"], networks["decoder"]
        self.exported = self.decoder
        self.players = [Player("autoencoder", nn.ModuleDict(dict(networks)))]
        self.steps = 0

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior of the latent, each (n, latent_size), float32."""
        mean, log_variance = self.encoder(images, labels).float().chunk(2, dim=1)
        return mean, log_variance

    @property
    def beta(self) -> float:
        """The weight of the divergence at this step."""
        warmup = self.settings.warmup_steps
        return self.settings.beta * min(1.0, self.steps / warmup) if warmup else self.settings.beta

    def loss(self, player: Player, batch: Batch) -> Loss:
        images = self._observed(batch)
        latent, divergences = DrawnLatent.apply(self.encoder(images, batch.labels).float())
        decoded = self.decoder(latent, batch.labels).float()
        reconstruction = -self.pixels(decoded, images).mean()
        pressed = divergences.clamp(min=self.settings.free_bits) if self.settings.free_bits else divergences
        summed = pressed.sum()
        value = torch.add(reconstruction, summed, alpha=self.beta)
        divergence = divergences.detach().sum() if self.settings.free_bits else summed.detach()
        reconstruction = reconstruction.detach()
        logs = {"elbo": -(reconstruction + divergence), "reconstruction": reconstruction, "divergence": divergence}
        if isinstance(self.pixels, GaussianPixels):
            logs["sigma"] = self.pixels.log_scale(decoded, images).detach().exp()
        return Loss(value, {"loss": value.detach(), **logs})

    def after_step(self, player: Player) -> None:
        self.steps += 1

    @torch.no_grad()
    def finish(self, data: TrainingData) -> None:
        """Calibrate the law of pixels, where it wants to be, on images decoded from draws of the posterior."""
        if not self.pixels.calibrates:
            return
        errors = []
        for turn in range(-(-min(data.count, CALIBRATED_ON) // CALIBRATED_AT_ONCE)):
            batch = data.batch(turn, CALIBRATED_AT_ONCE)
            images = self._observed(batch)
            mean, log_variance = self.encode(images, batch.labels)
            decoded = self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean), batch.labels)
            errors.append((images - decoded.float()).square().mean())
        self.pixels.calibrate(torch.stack(errors).mean())

    def _observed(self, batch: Batch) -> Tensor:
        """The images as the law of pixels knows them."""
        return self.pixels.observe(batch.images, quick_uniform(batch.images.shape, batch.images.device))

    def state(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])


class DrawnLatent(torch.autograd.Function):
    """Mean and log-variance of posteriors, (n, 2 d), to a latent of each, (n, d), and the mean over them of each
    dimension's divergence from the prior, (d,).

    With m the mean, s the deviation and e the noise, the latent is m + s e and its slopes are 1 and s e / 2; those of
    the divergence are m / n and (s^2 - 1) / (2 n). Written down these are eight operations, where torch goes back
    through each one forward: at 64 x 20 values all of it is calls. It cannot be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, encoded: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = encoded.chunk(2, dim=1)
        deviation = (0.5 * log_variance).exp_()
        away = torch.randn_like(mean).mul_(deviation)
        ctx.save_for_backward(mean, deviation, away)
        return mean + away, kl_to_standard_normal(mean, log_variance).mean(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_latent: Tensor, of_divergences: Tensor) -> Tensor:
        mean, deviation, away = ctx.saved_tensors
        of_each = of_divergences / len(mean)  # (d,)
        of_mean = torch.addcmul(of_latent, mean, of_each)
        of_log_variance = (of_latent * away).addcmul_(deviation.square().sub_(1), of_each).mul_(0.5)
        return torch.cat([of_mean, of_log_variance], dim=1)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats of each dimension of the latent: (n, d), (n, d) to (n, d).

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
