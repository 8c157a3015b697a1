"""A denoiser with a worse one beside it to be led away from (Karras et al. 2024, "Guiding a diffusion model with a bad
version of itself", arXiv:2406.02507).

The guide makes the same mistakes, only larger ones: it is smaller, or was taught less, or both. Where the two disagree,
the better one is not right yet either, and the way on is away from the guide. It is trained beside the other on the
same data (`objective.guide_every`), or it is the other as that was earlier in training (`objective.guide_until`). Both
are kept as one network, so that whoever draws from it has the guide as well.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from genforge.contracts import Network, Port
from genforge.networks.denoiser import Denoiser, Scales
from genforge.settings import Settings, UserError


class AutoguidedSettings(Settings):
    main: dict[str, Any] = Field(default_factory=lambda: {"name": "edm-denoiser"}, description="the denoiser")
    guide: dict[str, Any] = Field(
        default_factory=lambda: {"name": "edm-denoiser"},
        description="the worse one, of the same kind: a smaller backbone, or the same one, taught less or no longer",
    )


class Autoguided(Denoiser):
    """Denoises as `main` does; the sampler asks `guide` where it is told to."""

    settings_type = AutoguidedSettings
    inner: ClassVar[tuple[str, ...]] = ("main", "guide")

    @classmethod
    def inner_port(cls, key: str, settings: Settings, port: Port) -> Port:
        return port

    def __init__(self, settings: Settings, port: Port, main: Network, guide: Network) -> None:
        Network.__init__(self, settings, port)
        if not isinstance(main, Denoiser) or type(main) is not type(guide) or isinstance(main, Autoguided):
            raise UserError(
                f"networks.denoiser: main and guide should be denoisers of one kind, which see the same noise in the "
                f"same units, not {type(main).__name__} and {type(guide).__name__}"
            )
        self.main, self.guide = main, guide
        self.path = main.path

    def scales(self, sigma: Tensor) -> Scales:
        return self.main.scales(sigma)

    def training_sigma(self, uniform: Tensor) -> Tensor:
        return self.main.training_sigma(uniform)

    def sampling_sigmas(self, steps: int) -> Tensor:
        return self.main.sampling_sigmas(steps)

    def sigma_range(self) -> tuple[float, float]:
        return self.main.sigma_range()

    def guide_can_be_main(self) -> bool:
        """Whether the guide with main's weights would be main: they have the same weights, and mean the same by them
        (dropout aside, which only training has)."""
        main, guide = (
            ({name: value.shape for name, value in one.state_dict().items()}, _heads(one), _preconditioning(one))
            for one in (self.main, self.guide)
        )
        return main == guide

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.main(noisy, sigma, labels)


def _heads(network: nn.Module) -> list[int]:
    """How many heads each attention has, which no shape of its weights tells."""
    counts = (getattr(module, "heads", None) for module in network.modules())
    return [count for count in counts if isinstance(count, int)]


def _preconditioning(denoiser: Denoiser) -> dict[str, list[float]]:
    """Of some noise levels: what stands in settings and in no weight."""
    scales = denoiser.scales(torch.logspace(-2, 2, 9))
    return {name: value.tolist() for name, value in vars(scales).items()}
