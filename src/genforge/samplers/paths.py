"""Three ways to write the one probability-flow ODE down, for solvers whose result depends on it.

On the way from clean to noise a scaled image x = a clean + b noise, with b = a sigma, moves along a path with a clock u
of its own, and dx / du = a' D + b' e, where D is the predicted clean image and e the predicted noise. At large sigma
the unscaled path is long and nearly straight in log sigma only, so that a solver of second order needs many small
steps there; the two others turn all of it into a finite piece of time.

| path       | a     | b     | u             | the field's name                                                 |
| exploding  | 1     | u     | s (sigma)     | Karras et al. 2022, table 1, EDM                                 |
| straight   | 1 - u | u     | s / (1 + s)   | flow matching, Lipman et al. 2022; dx / du is its velocity       |
| preserving | cos u | sin u | arctan s      | DDPM in angles, Salimans & Ho 2022, app. D; dx / du is their v   |
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from genforge.networks.denoiser import PathName
from genforge.samplers.diffusion import DiffusionSettings, Step


class OdeSettings(DiffusionSettings):
    path: Literal["own", "exploding", "straight", "preserving"] = Field(
        "own",
        description="in which variable the ODE is solved: the denoiser's own, or exploding (EDM), straight (flow "
        "matching), preserving (DDPM); exploding does not suit grids that begin at a noise level of hundreds",
    )

    def path_of(self, at: Step) -> PathName:
        return at.path if self.path == "own" else self.path


def clock(path: PathName, sigma: Tensor) -> Tensor:
    """The path's time u at noise levels sigma."""
    match path:
        case "exploding":
            return sigma
        case "straight":
            return sigma / (1 + sigma)
        case "preserving":
            return sigma.atan()


def scale(path: PathName, sigma: Tensor) -> Tensor:
    """The path's a, by which noisy = clean + sigma * noise becomes x."""
    match path:
        case "exploding":
            return torch.ones_like(sigma)
        case "straight":
            return 1 / (1 + sigma)
        case "preserving":
            return sigma.atan().cos()


def velocity(path: PathName, sigma: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """dx / du at noise level sigma for the predicted clean image and noise."""
    match path:
        case "exploding":
            return noise
        case "straight":
            return noise - clean
        case "preserving":
            angle = sigma.atan()
            return angle.cos() * noise - angle.sin() * clean
