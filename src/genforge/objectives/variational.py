"""The variational autoencoder (Kingma & Welling 2014, "Auto-encoding variational Bayes").

Minimises the negative evidence lower bound in nats an image, with the divergence weighted by beta (Higgins et al.
2017). The scale of the Gaussian decoder is what balances the two terms; by default it is not guessed but calibrated
(Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port
from genforge.objectives.conditioning import check_conditioning
from genforge.settings import Settings

SMALLEST_LOG_SIGMA = -6.0  # where Rybkin et al. bound it: half a step of 8-bit pixels is exp(-5.5)


class VariationalSettings(Settings):
    latent_size: int = Field(16, ge=1, le=4096, description="length of the latent vector; its prior is standard normal")
    decoder: Literal["calibrated", "learned", "fixed", "bernoulli"] = Field(
        "calibrated",
        description="what a pixel is, given its latent. Gaussian around the decoded image, pixels in [-1, 1], with a "
        "scale that is calibrated (the best for each batch, in closed form), learned (one number) or fixed (`sigma`); "
        "or bernoulli, pixels in [0, 1] taken as probabilities: no density, so its bound compares with no other",
    )
    sigma: float = Field(1.0, gt=0.0, description="scale of the fixed decoder; where the learned one starts")
    beta: float = Field(1.0, ge=0.0, description="weight of the divergence; 1 gives the bound")
    conditional: bool = Field(False, description="give encoder and decoder the labels")


class Autoencoder(nn.Module):
    """All that the one player learns: encoder, decoder, and the decoder's scale where it is learned."""

    def __init__(self, encoder: Network, decoder: Network, sigma: float | None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.log_sigma = None if sigma is None else nn.Parameter(torch.tensor(math.log(sigma)))


class Variational(Objective):
    """One player, `autoencoder`; the decoder is exported."""

    family: ClassVar[str] = "VAE"
    settings_type = VariationalSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, VariationalSettings)
        classes = classes if settings.conditional else 0
        return {
            "encoder": Port("image_to_vector", image, outputs=2 * settings.latent_size, classes=classes),
            "decoder": Port("latent_to_image", image, latent_size=settings.latent_size, classes=classes),
        }

    @classmethod
    def exported_role(cls) -> str:
        return "decoder"

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        assert isinstance(settings, VariationalSettings)
        check_conditioning(settings.conditional, networks["decoder"].port)
        self.settings = settings
        sigma = settings.sigma if settings.decoder == "learned" else None
        self.autoencoder = Autoencoder(networks["encoder"], networks["decoder"], sigma)
        self.exported = networks["decoder"]
        self.players = [Player("autoencoder", self.autoencoder)]

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior of the latent, each (n, latent_size), float32."""
        mean, log_variance = self.autoencoder.encoder(images, labels).float().chunk(2, dim=1)
        return mean, log_variance

    def loss(self, player: Player, batch: Batch) -> Loss:
        mean, log_variance = self.encode(batch.images, batch.labels)
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        decoded = self.autoencoder.decoder(latent, batch.labels).float()
        reconstruction, logs = self._reconstruction(batch.images, decoded)
        divergence = kl_to_standard_normal(mean, log_variance).mean()
        value = reconstruction + self.settings.beta * divergence
        bound = -(reconstruction + divergence).detach()
        logs |= {"elbo": bound, "reconstruction": reconstruction.detach(), "divergence": divergence.detach()}
        return Loss(value, {"loss": value.detach(), **logs})

    def _reconstruction(self, images: Tensor, decoded: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood of the images in nats an image, and the decoder's scale to log."""
        if self.settings.decoder == "bernoulli":
            return bernoulli_nats(images, decoded).mean(), {}
        if self.autoencoder.log_sigma is not None:
            log_sigma = self.autoencoder.log_sigma.clamp(min=SMALLEST_LOG_SIGMA)
        elif self.settings.decoder == "calibrated":
            log_sigma = calibrated_log_sigma(images, decoded)
        else:
            log_sigma = images.new_tensor(math.log(self.settings.sigma))
        return gaussian_nats(images, decoded, log_sigma).mean(), {"sigma": log_sigma.detach().exp()}


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over the latent: (n, d), (n, d) to (n,).

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)


def gaussian_nats(images: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """-log N(images; mean, sigma^2) in nats, summed over the pixels: (n, c, h, w) to (n,). log_sigma: a scalar."""
    squared = ((images - mean) * (-log_sigma).exp()).square()
    return 0.5 * (squared + 2 * log_sigma + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def calibrated_log_sigma(images: Tensor, mean: Tensor) -> Tensor:
    """Logarithm of the likeliest scale, a scalar: sigma^2 is the mean squared error (Rybkin et al. 2021, section 4.2).

    Without gradient: at the optimum the likelihood's derivative by sigma is zero, so that none is lost.
    """
    return (0.5 * (images - mean).detach().square().mean().log()).clamp(min=SMALLEST_LOG_SIGMA)


def bernoulli_nats(images: Tensor, mean: Tensor) -> Tensor:
    """Cross entropy in nats, summed over the pixels, of images and probabilities both given in [-1, 1]: (n, c, h, w)
    to (n,). Probabilities are kept 1e-6 from 0 and 1, where the logarithm would not be finite."""
    target, probability = (images + 1) / 2, ((mean + 1) / 2).clamp(1e-6, 1 - 1e-6)
    return -(target * probability.log() + (1 - target) * (1 - probability).log()).flatten(1).sum(dim=1)
