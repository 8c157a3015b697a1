"""Heads of autoregressive networks: features of a pixel to the probabilities of its values.

A head also ties the channels of a colour pixel together: green is told red, and blue both. Everything here is of the
last dimension, so that one piece of code serves whole images and a single pixel.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_SCALES = (-7.0, 5.0)  # of a logistic; the lower bound is Salimans et al.'s: a tenth of an 8-bit step is exp(-7.1)


class Head(nn.Module):
    """Features (..., width), levels (..., channels), int64. `uniforms`: random numbers that a pixel is drawn from."""

    uniforms: int

    @abstractmethod
    def log_probabilities(self, features: Tensor, levels: Tensor) -> Tensor:
        """In nats, of each level given those of the channels before it: (..., channels), float32 or better."""

    @abstractmethod
    def draw(self, features: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """Levels (..., channels), drawn by uniform noise (..., uniforms) in (0, 1). A temperature below 1 makes likely
        values likelier."""


class Categorical(Head):
    """A probability for every level by itself (van den Oord et al. 2016, "Pixel recurrent neural networks").

    The paper tells a channel of those before it by masks through all layers; here their levels are embedded and added
    to the pixel's features, just before the last layer.
    """

    def __init__(self, width: int, channels: int, levels: int) -> None:
        super().__init__()
        self.uniforms = channels
        self.before = nn.ModuleList(nn.Embedding(levels, width) for _ in range(channels - 1))
        self.logits = nn.ModuleList(nn.Linear(width, levels) for _ in range(channels))

    def _channel(self, features: Tensor, channel: int, levels: Tensor) -> Tensor:
        """Logits (..., levels) of a channel, by the levels of those before it."""
        for other in range(channel):
            features = features + self.before[other](levels[..., other])
        return self.logits[channel](functional.relu(features))

    def log_probabilities(self, features: Tensor, levels: Tensor) -> Tensor:
        found = []
        for channel in range(len(self.logits)):
            logits = _precise(self._channel(features, channel, levels))
            wanted = levels[..., channel, None]
            found.append(logits.gather(-1, wanted).squeeze(-1) - logits.logsumexp(-1))
        return torch.stack(found, dim=-1)

    def draw(self, features: Tensor, noise: Tensor, temperature: float) -> Tensor:
        levels = torch.zeros(*features.shape[:-1], len(self.logits), dtype=torch.int64, device=features.device)
        for channel in range(len(self.logits)):
            levels[..., channel] = drawn(self._channel(features, channel, levels) / temperature, noise[..., channel])
        return levels


class LogisticMixture(Head):
    """A mixture of logistics, cut into levels (Salimans et al. 2017, "PixelCNN++", eq. 1 to 3).

    The lowest and the highest level have the tails. The component is one for all channels of a pixel; in it, the mean
    of green hangs on red, and that of blue on both.

    The mass between a and b, in units of the scale, is written as sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which loses
    no digits in either tail, so that, other than in the paper's code, no small mass is replaced by a density and the
    levels' probabilities sum to one.
    """

    def __init__(self, width: int, channels: int, levels: int, mixtures: int) -> None:
        super().__init__()
        self.channels, self.levels, self.mixtures = channels, levels, mixtures
        self.uniforms = 1 + channels
        self.slopes = channels * (channels - 1) // 2
        self.parts = nn.Linear(width, mixtures * (1 + 2 * channels + self.slopes))
        with torch.no_grad():  # components begin side by side, spread over the whole range, and not on one another
            bias = self.parts.bias.zero_().unflatten(0, (-1, mixtures))
            bias[1 : 1 + channels] = torch.linspace(-1.0, 1.0, mixtures) if mixtures > 1 else 0.0
            bias[1 + channels : 1 + 2 * channels] = math.log(0.5 / mixtures)

    def _parts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the components (..., 1, mixtures), their means and log-scales (..., channels, mixtures), and how
        means hang on channels before (..., slopes, mixtures)."""
        parts = _precise(self.parts(functional.relu(features))).unflatten(-1, (-1, self.mixtures))
        logits, means, log_scales, slopes = parts.split([1, self.channels, self.channels, self.slopes], dim=-2)
        return logits, means, log_scales.clamp(*LOG_SCALES), slopes.tanh()

    def _mean(self, means: Tensor, slopes: Tensor, channel: int, values: Tensor) -> Tensor:
        """Of a channel in each component (..., mixtures), given the values (..., channels) of those before it."""
        first = channel * (channel - 1) // 2
        mean = means[..., channel, :]
        for other in range(channel):
            mean = mean + slopes[..., first + other, :] * values[..., other, None]
        return mean

    def log_probabilities(self, features: Tensor, levels: Tensor) -> Tensor:
        logits, means, log_scales, slopes = self._parts(features)
        values = self._values(levels, means.dtype)
        masses = []
        for channel in range(self.channels):
            mean = self._mean(means, slopes, channel, values)
            masses.append(self._log_mass(values[..., channel, None], mean, log_scales[..., channel, :]))
        # log p(component, channels up to here), (..., channels, mixtures); of components together it is log p(channels
        # up to here), and the difference of neighbours what each channel adds.
        joint = logits.log_softmax(-1) + torch.stack(masses, dim=-2).cumsum(-2)
        together = joint.logsumexp(-1)
        return torch.cat([together[..., :1], together.diff(dim=-1)], dim=-1)

    def draw(self, features: Tensor, noise: Tensor, temperature: float) -> Tensor:
        logits, means, log_scales, slopes = self._parts(features)
        component = drawn(logits.squeeze(-2) / temperature, noise[..., 0])[..., None]
        levels = torch.zeros(*features.shape[:-1], self.channels, dtype=torch.int64, device=features.device)
        for channel in range(self.channels):
            mean = self._mean(means, slopes, channel, self._values(levels, means.dtype)).gather(-1, component)
            scale = log_scales[..., channel, :].gather(-1, component).exp() * temperature
            value = mean.squeeze(-1) + scale.squeeze(-1) * noise[..., channel + 1].logit()
            level = (value + 1.0) * (self.levels - 1) / 2.0
            levels[..., channel] = level.round().clamp(0, self.levels - 1).to(torch.int64)
        return levels

    def _values(self, levels: Tensor, dtype: torch.dtype) -> Tensor:
        return levels.to(dtype) * (2.0 / (self.levels - 1)) - 1.0

    def _log_mass(self, value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Log of the mass within half a step of a value (..., 1), all beyond it at either end: (..., mixtures)."""
        half = 1.0 / (self.levels - 1)
        by_scale = (-log_scale).exp()
        above, below = (value - mean + half) * by_scale, (value - mean - half) * by_scale
        not_above, not_below = functional.logsigmoid(above), functional.logsigmoid(-below)
        inside = not_above + not_below + (-torch.expm1(-2.0 * half * by_scale)).log()
        inside = torch.where(value < -1.0 + half, not_above, inside)
        return torch.where(value > 1.0 - half, not_below, inside)


def drawn(logits: Tensor, noise: Tensor) -> Tensor:
    """Which of the choices (..., choices) falls to uniform noise (...): int64 (...), by the inverse of their
    distribution function."""
    reached = logits.softmax(-1).cumsum(-1)
    return (noise[..., None] > reached).sum(-1).clamp(max=logits.shape[-1] - 1)


def _precise(parameters: Tensor) -> Tensor:
    """In float32 at least: what is exponentiated loses too much in bfloat16."""
    return parameters.float() if parameters.dtype in (torch.bfloat16, torch.float16) else parameters
