"""What a pixel is, given the decoded image: the law that an autoencoder's decoder leaves open.

A law maps a decoded image and an image, both (n, c, h, w), to the log-likelihood of the image in nats, (n,). Each says
which scale of the data it assumes:

gaussian-pixels: values in [-1, 1] as they are, continuous; a density. Its probability of an 8-bit image is the mass of
    the normal in the cells that are rounded to its levels; of points, which are not rounded, it stays a density.
logistic-pixels: levels of 8-bit images, 2/255 apart in [-1, 1]; a probability.
bernoulli-pixels: values 0 and 1, given as -1 and 1; a probability. Grays are turned to black or white first.

A decoded image is in [-1, 1] whatever the law: the middle of the Gaussian and of the logistic; for Bernoulli pixels
(decoded + 1) / 2 is the probability of white.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from genforge.contracts import CELL, EIGHT_BIT, POINTS, Network, Port, PortKind
from genforge.settings import Settings

SMALLEST_LOG_SIGMA = -6.0  # where Rybkin et al. bound it: half a step of 8-bit pixels is exp(-5.5)
SMALLEST_LOG_SCALE = -7.0  # of the logistic, where IAF and PixelCNN++ bound it
SMALLEST_PROBABILITY = 1e-6  # of black and of white, where the logarithm is still finite


class Pixels(Network):
    """A law of pixels. of: what its likelihood is the likelihood of. calibrates: whether `calibrate` wants to be called
    after training."""

    kind: ClassVar[PortKind] = "pixels"
    of: str = EIGHT_BIT
    calibrates: bool = False

    def observe(self, images: Tensor, unit: Tensor) -> Tensor:
        """The images as the law knows them. unit: uniform noise in (0, 1) of the same shape."""
        return images

    @abstractmethod
    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Log-likelihood of observed images, what training maximises: (n,), float32 nats."""

    def log_probability(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Logarithm of the probability of observed images, (n,) nats; where `forward` is none, not the same."""
        return self(decoded, images)

    def calibrate(self, squared_error: Tensor) -> None:
        """Set what training left open. squared_error: of a pixel, the mean over training images, a scalar."""
        return None


class GaussianPixelsSettings(Settings):
    scale: Literal["calibrated", "learned", "fixed"] = Field(
        "calibrated",
        description="where the standard deviation comes from, which is one for all pixels: calibrated (the likeliest "
        "for each batch, in closed form; after training that of the training split), learned as a weight, or fixed",
    )
    sigma: float = Field(1.0, gt=0.0, description="the fixed deviation, of pixels in [-1, 1]; where the learned starts")


class GaussianPixels(Pixels):
    """Normal around the decoded image. Calibration: Rybkin et al. 2021, "Simple and effective VAE training with
    calibrated decoders", section 4.2."""

    settings_type = GaussianPixelsSettings
    takes_points = True
    log_sigma: Tensor  # scalar

    def __init__(self, settings: GaussianPixelsSettings, port: Port) -> None:
        super().__init__(settings, port)
        self.scale, self.calibrates = settings.scale, settings.scale == "calibrated"
        self.of = POINTS if port.image.is_point else EIGHT_BIT
        log_sigma = torch.tensor(math.log(settings.sigma))
        if self.scale == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    def log_scale(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Logarithm of the deviation that holds for these images, a scalar."""
        if self.calibrates and self.training:
            return calibrated_log_sigma(images, decoded)
        return self.log_sigma.clamp(min=SMALLEST_LOG_SIGMA)

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        return -gaussian_nats(images, decoded, self.log_scale(decoded, images))

    def log_probability(self, decoded: Tensor, images: Tensor) -> Tensor:
        if self.port.image.is_point:
            return self(decoded, images)
        sigma = self.log_scale(decoded, images).double().exp()
        away, half = (images.double() - decoded.double()) / sigma, CELL / 2 / sigma
        # Seen from the far side, where the distribution function is small and its logarithm is exact.
        upper, lower = (torch.special.log_ndtr(half * sign - away.abs()) for sign in (1, -1))
        inside = upper + torch.log1p(-(lower - upper).exp())
        darkest, lightest = (torch.special.log_ndtr(sign * away + half) for sign in (1, -1))
        return _with_tails(images, inside, darkest, lightest).flatten(1).sum(dim=1)

    @torch.no_grad()
    def calibrate(self, squared_error: Tensor) -> None:
        if self.calibrates:
            self.log_sigma.copy_((0.5 * squared_error.log()).clamp(min=SMALLEST_LOG_SIGMA))


class LogisticPixelsSettings(Settings):
    scale: float = Field(
        0.1, gt=0.001, le=1.0, description="of the logistic, of pixels in [-1, 1]: where each channel's starts"
    )


class LogisticPixels(Pixels):
    """The mass of a logistic around the decoded image in the cell of each level; the darkest and the lightest level
    have the tails. Kingma et al. 2016, "Improved variational inference with inverse autoregressive flow", eq. 18 and
    appendix; Salimans et al. 2017, eq. 2. Each channel learns a scale of its own."""

    settings_type = LogisticPixelsSettings

    def __init__(self, settings: LogisticPixelsSettings, port: Port) -> None:
        super().__init__(settings, port)
        self.log_scale = nn.Parameter(torch.full((port.image.channels, 1, 1), math.log(settings.scale)))

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        scale = self.log_scale.clamp(min=SMALLEST_LOG_SCALE).exp()
        away, half = (images - decoded.float()) / scale, CELL / 2 / scale
        darkest, lightest = functional.logsigmoid(away + half), functional.logsigmoid(half - away)
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)): nothing cancels.
        inside = darkest + lightest + torch.log(-torch.expm1(-2 * half))
        return _with_tails(images, inside, darkest, lightest).flatten(1).sum(dim=1)


class BernoulliPixelsSettings(Settings):
    binarise: Literal["random", "half"] = Field(
        "random",
        description="how a gray becomes black or white: at random, anew each time, white as often as it is light "
        "(Salakhutdinov & Murray 2008; Burda et al. 2016); or by whether it is above half",
    )


class BernoulliPixels(Pixels):
    """White with the probability that the decoder says, black else. Tells nothing of 8-bit images, so that its
    likelihood compares with no other law's."""

    settings_type = BernoulliPixelsSettings

    def __init__(self, settings: BernoulliPixelsSettings, port: Port) -> None:
        super().__init__(settings, port)
        self.binarise = settings.binarise
        self.of = f"images binarised at {self.binarise}"

    def observe(self, images: Tensor, unit: Tensor) -> Tensor:
        threshold = (2 * unit).sub_(1) if self.binarise == "random" else torch.zeros_like(images)
        return threshold.lt_(images).mul_(2).sub_(1)

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        nats: Tensor = _NatsOfSeen.apply(decoded.float(), images)
        return nats


class _NatsOfSeen(torch.autograd.Function):
    """log P(images) for images of 1 and -1, summed over the pixels, with P = (1 + decoded * images) / 2 of each pixel
    kept `SMALLEST_PROBABILITY` from 0 and from 1: (n, c, h, w) twice to (n,).

    The slope, images / (2 P) where P is not kept back and 0 where it is, is written down while P is at hand: a third of
    the work of going back through each operation. It cannot be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, decoded: Tensor, images: Tensor) -> Tensor:
        free = (decoded * images).add_(1).mul_(0.5)
        told = free.clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((images / told).mul_(free.eq_(told)).mul_(0.5))
        return told.log_().flatten(1).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_of_loss: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * slope_of_loss[:, None, None, None], None


def gaussian_nats(images: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """-log N(images; mean, sigma^2) in nats, summed over the pixels: (n, c, h, w) to (n,). log_sigma: a scalar."""
    squared = ((images - mean) * (-log_sigma).exp()).square()
    return 0.5 * (squared + 2 * log_sigma + math.log(2 * math.pi)).flatten(1).sum(dim=1)


def calibrated_log_sigma(images: Tensor, mean: Tensor) -> Tensor:
    """Logarithm of the likeliest scale, a scalar: sigma^2 is the mean squared error (Rybkin et al. 2021, section 4.2).

    Without gradient: at the optimum the likelihood's derivative by sigma is zero, so that none is lost.
    """
    return (0.5 * (images - mean).detach().square().mean().log()).clamp(min=SMALLEST_LOG_SIGMA)


def _with_tails(images: Tensor, inside: Tensor, darkest: Tensor, lightest: Tensor) -> Tensor:
    """The cell's own mass, but for the outermost levels, whose cells have no end."""
    edge = 1.0 - CELL / 2
    return torch.where(images < -edge, darkest, torch.where(images > edge, lightest, inside))
