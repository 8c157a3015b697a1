"""The plain autoencoder (Hinton & Salakhutdinov 2006), which draws by a prior that is fitted to its codes.

Minimises the squared error between an image and its reconstruction. Nothing shapes the codes while it learns; after
training a distribution is fitted to the codes of the training images (Ghosh et al. 2020, "From variational to
deterministic autoencoders", section 4, "ex-post density estimation").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from genforge.contracts import Batch, ImageShape, Loss, Network, Objective, Player, Port, TrainingData
from genforge.networks.latent_prior import LatentPrior
from genforge.settings import Settings, UserError


class AutoencodingSettings(Settings):
    latent_size: int = Field(16, ge=1, le=512, description="length of a code")
    noise: float = Field(
        0.0,
        ge=0.0,
        description="standard deviation of Gaussian noise on the images that are encoded, pixels being in [-1, 1]: a "
        "denoising autoencoder (Vincent et al. 2008)",
    )
    shrinkage: float = Field(
        1e-4,
        ge=0.0,
        description="weight of the codes' squared length beside the squared error of an image: keeps them from "
        "drifting apart (Ghosh et al. 2020, eq. 7)",
    )


class Autoencoding(Objective):
    """One player, `autoencoder`; the decoder with its prior is exported, the encoder is its companion."""

    family: ClassVar[str] = "autoencoder"
    settings_type = AutoencodingSettings

    @classmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        assert isinstance(settings, AutoencodingSettings)
        return {
            "encoder": Port("image_to_vector", image, outputs=settings.latent_size),
            "decoder": Port("latent_to_image", image, latent_size=settings.latent_size + 1),
        }

    @classmethod
    def exported_role(cls) -> str:
        return "decoder"

    @classmethod
    def companions(cls) -> tuple[str, ...]:
        return ("encoder",)

    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None:
        assert isinstance(settings, AutoencodingSettings)
        decoder = networks["decoder"]
        if not isinstance(decoder, LatentPrior):
            raise UserError(
                f"objective 'autoencoding' draws by a prior over its codes: say `latent-prior` for networks.decoder, "
                f"with the network that you meant as its `decoder`, not a {type(decoder).__name__}"
            )
        self.settings, self.networks = settings, networks
        self.encoder, self.decoder, self.exported = networks["encoder"], decoder, decoder
        self.players = [Player("autoencoder", nn.ModuleDict({"encoder": self.encoder, "decoder": decoder.decoder}))]

    def loss(self, player: Player, batch: Batch) -> Loss:
        images = batch.images
        noisy = images + self.settings.noise * torch.randn_like(images) if self.settings.noise else images
        codes = self.encoder(noisy).float()
        squared = (self.decoder.decode(codes).float() - images).square().flatten(1).sum(dim=1).mean()
        length = codes.square().sum(dim=1).mean()
        value = squared + self.settings.shrinkage * length
        logs = {"squared_error": squared.detach(), "code_length": length.detach()}
        return Loss(value, {"loss": value.detach(), **logs})

    @torch.no_grad()
    def finish(self, data: TrainingData) -> None:
        """Fit the prior to the codes of the training images."""
        codes = torch.cat([self.encoder(chunk.images).float() for chunk in data.chunks()])
        self.decoder.prior.fit(_Codes(codes))


class _Codes(TrainingData):
    """Codes (n, d) as a baseline sees data: images of one row of d values."""

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes
        self.shape, self.count, self.classes = ImageShape(1, 1, codes.shape[1]), len(codes), 0

    def chunks(self, size: int = 1024) -> Iterator[Batch]:
        for part in self.codes.split(size):
            yield Batch(part[:, None, None, :])

    def batch(self, turn: int, size: int) -> Batch:
        raise LookupError("codes are fitted to as a whole, never in turns")
