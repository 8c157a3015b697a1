"""Samplers of diffusion models. All of them see one thing: a denoiser D(noisy, sigma), and its grid of noise levels.

In the convention noisy = clean + sigma * noise every step goes from x at sigma to x' at sigma' < sigma. The forward
process from x' to x only adds noise, so that given the clean image

    x' | x, clean ~ N(clean + (sigma'^2 / sigma^2) (x - clean), sigma'^2 (sigma^2 - sigma'^2) / sigma^2),

which is eq. 6 and 7 of Ho et al. 2020 in other units. Step k takes its fresh noise from stream k of the image's own
randomness, so that a seed gives the same image at any batch size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge import randomness
from genforge.contracts import Draw, Network, Sampler
from genforge.networks.denoiser import Denoiser
from genforge.samplers.drawing import begin
from genforge.settings import Settings

Noise = Callable[[], Tensor]  # fresh standard normal noise of this step, (n, c, h, w), made only when asked for


class DiffusionSettings(Settings):
    steps: int = Field(50, ge=1, le=100_000, description="denoiser evaluations an image")
    clip: bool = Field(True, description="clip the predicted clean image to [-1, 1] at every step")


@dataclass(frozen=True)
class State:
    """Where sampling stands after a step.

    sigma: the noise level reached, 0 at the end. noisy: images at that level, (n, c, h, w). clean: the clean images
    that the step predicted, (n, c, h, w).
    """

    sigma: float
    noisy: Tensor
    clean: Tensor


class DiffusionSampler(Sampler):
    """Walks down the denoiser's grid. A new sampler states one step."""

    kinds: ClassVar[tuple[str, ...]] = ("denoiser",)

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, DiffusionSettings)
        super().__init__(settings)
        self.steps, self.clip = settings.steps, settings.clip

    def check(self, network: Network) -> None:
        assert isinstance(network, Denoiser)
        network.sampling_sigmas(self.steps)

    @abstractmethod
    def step(self, noisy: Tensor, clean: Tensor, sigma: Tensor, following: Tensor, noise: Noise) -> Tensor:
        """Images at noise level `following`, a scalar above zero, from those at `sigma` and the predicted clean."""

    @torch.no_grad()
    def sample(self, network: Network, draw: Draw) -> Tensor:
        noisy = None
        for state in self.trajectory(network, draw):
            noisy = state.noisy
        assert noisy is not None
        return noisy

    def trajectory(self, network: Network, draw: Draw) -> Iterator[State]:
        """Every state on the way, the last of them the images."""
        assert isinstance(network, Denoiser)
        indices, labels = begin(network, draw)
        image = network.port.image
        shape = (image.channels, image.height, image.width)
        sigmas = network.sampling_sigmas(self.steps)
        noisy = sigmas[0] * randomness.normal(draw.seed, indices, shape)
        for index in range(self.steps):
            sigma, following = sigmas[index], sigmas[index + 1]

            def noise(stream: int = index + 1) -> Tensor:
                return randomness.normal(draw.seed, indices, shape, stream)

            with torch.no_grad():
                clean = network(noisy, sigma.expand(len(noisy)), labels)
                clean = clean.clamp(-1, 1) if self.clip else clean
                last = index == self.steps - 1
                noisy = clean if last else self.step(noisy, clean, sigma, following, noise)
            yield State(float(following), noisy, clean)


class DDPM(DiffusionSampler):
    """Ancestral sampling (Ho et al. 2020, Algorithm 2, with the posterior's own variance, their section 3.2)."""

    settings_type = DiffusionSettings

    def step(self, noisy: Tensor, clean: Tensor, sigma: Tensor, following: Tensor, noise: Noise) -> Tensor:
        mean, deviation = posterior(noisy, clean, sigma, following)
        return mean + deviation * noise()


class DDIMSettings(DiffusionSettings):
    eta: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="fresh noise: 0 none, the image follows from its first noise alone; "
        "1 as much as ancestral sampling",
    )


class DDIM(DiffusionSampler):
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16)."""

    settings_type = DDIMSettings

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, DDIMSettings)
        super().__init__(settings)
        self.eta = settings.eta

    def step(self, noisy: Tensor, clean: Tensor, sigma: Tensor, following: Tensor, noise: Noise) -> Tensor:
        predicted_noise = (noisy - clean) / sigma
        if self.eta == 0.0:
            return clean + following * predicted_noise
        fresh = self.eta * posterior_deviation(sigma, following)
        return clean + (following**2 - fresh**2).sqrt() * predicted_noise + fresh * noise()


def posterior(noisy: Tensor, clean: Tensor, sigma: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n, c, h, w) and standard deviation (scalar) of the images at `following`, given those at `sigma` and the
    clean ones. Ho et al. 2020, eq. 6 and 7."""
    return clean + (following / sigma) ** 2 * (noisy - clean), posterior_deviation(sigma, following)


def posterior_deviation(sigma: Tensor, following: Tensor) -> Tensor:
    """sigma' sqrt(1 - (sigma' / sigma)^2) for sigma' = following."""
    return following * (1 - (following / sigma) ** 2).sqrt()
