"""What all samplers of diffusion models share: the walk down a grid of noise levels. A new sampler states one step.

A sampler sees one thing, a denoiser D(noisy, sigma) with noisy = clean + sigma * noise, whatever its network predicts.
With predicted noise e = (noisy - D) / sigma, what follows from D without chance is the probability-flow ODE

    d noisy / d sigma = e                   (Karras et al. 2022, eq. 1 and 3, with sigma(t) = t)

The k-th step takes its fresh noise from stream k of the image's own randomness, so that a seed gives the same image at
any batch size. The last step, to noise level zero, is D itself in every sampler.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genforge import randomness
from genforge.arithmetic import multiplies_bfloat16
from genforge.contracts import Draw, Network, Port, Sampler, State, Taught
from genforge.networks.autoguided import Autoguided
from genforge.networks.denoiser import Denoiser, PathName, karras_levels
from genforge.progress import say
from genforge.samplers.drawing import begin, device_of
from genforge.settings import Settings, UserError

Denoise = Callable[[Tensor, Tensor], Tensor]  # noisy (n, c, h, w) at noise level sigma () to clean (n, c, h, w)
Noise = Callable[[int], Tensor]  # stream to fresh standard normal noise, (n, c, h, w)


class DiffusionSettings(Settings):
    steps: int = Field(
        50, ge=1, le=100_000, description="steps an image, an evaluation of the denoiser each (heun: two)"
    )
    spacing: Literal["own", "karras", "logarithmic"] = Field(
        "own",
        description="noise levels of the steps: the denoiser's own grid; karras: closer and closer (Karras 2022, "
        "eq. 5); logarithmic: in equal ratios",
    )
    sigmas: tuple[float, ...] | None = Field(
        None, min_length=1, description="noise levels of the steps one by one, falling, in place of steps and spacing"
    )
    clip: bool = Field(True, description="clip the predicted clean image to [-1, 1] at every step")
    guidance: float = Field(
        1.0,
        ge=0.0,
        description="strength of classifier-free guidance (Ho & Salimans 2022): 1 none, more is more typical of the "
        "label and less varied, 0 as if there were no label. Other than 1 takes one evaluation more",
    )
    autoguidance: float = Field(
        1.0,
        ge=0.0,
        description="strength of autoguidance (Karras 2024, arXiv:2406.02507) by the guide of an autoguided-denoiser: "
        "1 none, more is further from what a worse network would draw. Other than 1 takes an evaluation of the guide",
    )

    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the denoiser's arithmetic; the steps between are in float32. bfloat16 on a CPU without "
        "instructions for it (AVX512-BF16): float32, and one line says so",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_eta(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "eta" in values and "eta" not in cls.model_fields:
            raise ValueError(
                "without `eta`: how much fresh noise a step adds can be chosen with ddim alone; ddpm adds all of it, "
                "and the solvers of the probability-flow ODE (euler, heun, dpm-solver) none. Set sampler.name to ddim, "
                "or leave eta out"
            )
        return values


@dataclass(frozen=True)
class Step:
    """What a sampler knows when it takes a step from `noisy` at noise level `sigma` to level `following`.

    clean: D(noisy, sigma), (n, c, h, w) like noisy. sigma, following: scalars, following < sigma and above zero.
    denoise: D, for one more evaluation elsewhere. fresh: makes this step's standard normal noise. path: the denoiser's
    own (genforge.samplers.paths). before: the step before this one, None at the first.
    """

    noisy: Tensor
    clean: Tensor
    sigma: Tensor
    following: Tensor
    denoise: Denoise
    fresh: Callable[[], Tensor]
    path: PathName
    before: Step | None

    @property
    def noise(self) -> Tensor:
        """The predicted noise e = (noisy - clean) / sigma."""
        return (self.noisy - self.clean) / self.sigma


class DiffusionSampler(Sampler):
    """Walks down a grid of noise levels. A new sampler states one step."""

    kinds: ClassVar[tuple[str, ...]] = ("denoiser",)
    settings_type: ClassVar[type[Settings]] = DiffusionSettings
    settings: DiffusionSettings
    follows: ClassVar[Taught] = "score"  # what a denoiser has to be taught, so that these steps lead to an image

    def __init__(self, settings: Settings) -> None:
        assert isinstance(settings, DiffusionSettings)
        super().__init__(settings)

    @abstractmethod
    def step(self, at: Step) -> Tensor:
        """Images at noise level `at.following`, (n, c, h, w)."""

    @classmethod
    def suits(cls, port: Port) -> bool:
        return super().suits(port) and port.taught == cls.follows

    def check(self, network: Network) -> None:
        """Raises UserError when the grid leaves the denoiser's range, or guidance has nothing to lead away from."""
        assert isinstance(network, Denoiser)
        self.grid(network)
        if self.settings.autoguidance != 1.0 and not isinstance(network, Autoguided):
            raise UserError(
                f"sampler.autoguidance is {self.settings.autoguidance:g}, but the network has no guide to be led away "
                f"from; start from the recipe autoguided-edm, or set sampler.autoguidance to 1"
            )
        if self.settings.guidance != 1.0 and not network.port.unlabelled:
            raise UserError(
                f"sampler.guidance is {self.settings.guidance:g}, but the network never learned to do without labels, "
                f"which guidance leads away from; set objective.conditional to true and objective.label_dropout above "
                f"0, such as 0.1, or sampler.guidance to 1"
            )

    def grid(self, network: Denoiser) -> Tensor:
        """The noise levels of this sampler on this denoiser: float32 (steps + 1,), falling, the last zero.

        Raises:
            UserError: levels outside of the denoiser's range, or not falling.
        """
        low, high = network.sigma_range()
        sigmas, steps, spacing = self.settings.sigmas, self.settings.steps, self.settings.spacing
        if sigmas is not None:
            levels = torch.tensor(sigmas)
            if (levels.diff() >= 0).any() or not (low <= sigmas[-1] and sigmas[0] <= high):
                raise UserError(
                    f"sampler.sigmas is {list(sigmas)}; it should fall, between {high:g} and {low:g}, the noise levels "
                    f"of the denoiser"
                )
        elif spacing == "karras":
            levels = karras_levels(low, high, steps).float()
        elif spacing == "logarithmic":
            levels = torch.logspace(math.log10(high), math.log10(low), steps)
        else:
            return self.own_grid(network, steps)
        return torch.cat([levels, levels.new_zeros(1)])

    def own_grid(self, network: Denoiser, steps: int) -> Tensor:
        """The grid of `spacing: own`: float32 (steps + 1,), falling, the last zero."""
        return network.sampling_sigmas(steps)

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

        def noise(stream: int) -> Tensor:
            return randomness.normal(draw.seed, indices, shape, stream)

        start = noise(0)
        sigmas = self.grid(network).to(start.device)
        yield from self.walk(self.denoise(network, labels), sigmas[0] * start, sigmas, noise, network.path)

    def walk(
        self, denoise: Denoise, noisy: Tensor, sigmas: Tensor, noise: Noise, path: PathName = "exploding"
    ) -> Iterator[State]:
        """Every state on the way from images at noise level sigmas[0] down to clean ones.

        Args:
            noisy: images at sigmas[0], (n, c, h, w).
            sigmas: (steps + 1,), falling, the last zero; of the precision of noisy.
            noise: of a stream; the k-th step, counted from 1, may take stream k.
            path: the denoiser's own, for solvers that are not told another.
        """
        before: Step | None = None
        levels = sigmas.tolist()
        for index in range(len(levels) - 1):
            with torch.no_grad():
                sigma, following = sigmas[index], sigmas[index + 1]
                clean = denoise(noisy, sigma)

                def fresh(stream: int = index + 1) -> Tensor:
                    return noise(stream)

                at = Step(noisy, clean, sigma, following, denoise, fresh, path, before)
                noisy = self.step(at) if levels[index + 1] > 0 else clean
                before = replace(at, before=None)  # one step is remembered, not all
            yield State(levels[index + 1], noisy, clean)

    def denoise(self, network: Denoiser, labels: Tensor | None) -> Denoise:
        """D as the steps see it: the network, guided and clipped.

        Away from the answer without a label by Ho & Salimans 2022, eq. 6, with guidance = 1 + w, and from the guide's
        by Karras et al. 2024, eq. 4. Both are linear in the predicted noise, and so the same in the clean image.
        """
        guidance, autoguidance = self.settings.guidance, self.settings.autoguidance
        device = device_of(network).type
        lower = self.settings.precision == "bfloat16" and (device != "cpu" or _multiplies_bfloat16())

        def evaluate(noisy: Tensor, sigma: Tensor) -> Tensor:
            levels = sigma.expand(len(noisy))
            with torch.autocast(device, torch.bfloat16, enabled=lower):
                answer = clean = network(noisy, levels, labels)
                if guidance != 1.0:
                    assert labels is not None
                    without = network(noisy, levels, torch.full_like(labels, network.port.classes))
                    clean = clean + (guidance - 1) * (answer - without)
                if autoguidance != 1.0:
                    assert isinstance(network, Autoguided)
                    clean = clean + (autoguidance - 1) * (answer - network.guide(noisy, levels, labels))
            return clean.clamp(-1, 1) if self.settings.clip else clean

        return evaluate


@cache
def _multiplies_bfloat16() -> bool:
    """Whether this processor does; where not, one line a process says what is left out."""
    if not multiplies_bfloat16():
        say("left out: sampler.precision: bfloat16: this processor has no instructions for it (AVX512-BF16); float32")
        return False
    return True
