"""Averages of weights whose length is chosen after training (Karras et al. 2024, "Analyzing and improving the training
dynamics of diffusion models", arXiv:2312.02696, section 3 and appendix C).

A power-function average weighs the weights of update t' up to update t by t'^gamma: it grows as training does, and
forgets where it began. Its length is given by sigma_rel, the standard deviation of this profile as a share of the
training: 0.10 is their usual choice. Two averages of different lengths are followed and now and then written down; any
average of the same span is then nearly a weighted sum of what was written, by least squares on the profiles (their
algorithm 3), so that lengths can be compared without training again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from genforge.files import replacing, telling_of_no_room
from genforge.settings import Settings, UserError
from genforge.training.checkpoint import serialise

SHORTEST, LONGEST = 0.01, 0.28  # sigma_rel: beyond, the profile has no power or one below 0 (their eq. 6)
NAME = re.compile(r"(\d+)-([\d.]+)\.safetensors")
Length = Annotated[float, Field(ge=SHORTEST, le=LONGEST)]


class PowerAverageSettings(Settings):
    snapshots: int = Field(
        0,
        ge=0,
        le=1000,
        description="how often, evenly spread over training, the averages are written down for a choice of their "
        "length afterwards (`genforge ema`); 0: none are followed. Each takes the weights' size, once a length",
    )
    lengths: tuple[Length, ...] = Field(
        (0.05, 0.10),
        min_length=2,
        max_length=8,
        description="sigma_rel of the averages that are followed, from which others are made (Karras 2024)",
    )
    choose: Length | None = Field(
        None,
        description="sigma_rel of the average that the finished model has, made from what was written down; null: the "
        "usual average, see `ema`. It can be changed after training, which then takes seconds",
    )

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> PowerAverageSettings:
        if self.choose is not None and self.snapshots < 1:
            raise ValueError("with snapshots of 1 or more where `choose` is set: an average is made from them")
        if len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths that differ, not {list(self.lengths)}")
        return self


@dataclass(frozen=True)
class Place:
    """What a snapshot is of: the update after which it was written, counted from 1, and sigma_rel."""

    update: int
    length: float

    @property
    def file(self) -> str:
        return f"{self.update:09d}-{self.length:g}.safetensors"


class PowerAverages:
    """The averages that a run follows, and where they are written down.

    Args:
        module: whose weights are followed.
        settings: with snapshots of 1 or more.
        folder: of the snapshots; None: they stay in memory.
    """

    def __init__(self, module: nn.Module, settings: PowerAverageSettings, folder: Path | None) -> None:
        self.settings, self.folder, self.updates = settings, folder, 0
        self.weights = dict(module.named_parameters())
        self.averages = {
            length: [weight.detach().clone() for weight in self.weights.values()] for length in settings.lengths
        }
        self.in_memory: dict[Place, dict[str, Tensor]] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now. Their eq. 4: after t updates (1 - 1 / t)^(gamma + 1) is kept."""
        self.updates += 1
        for length, averages in self.averages.items():
            kept = (1 - 1 / self.updates) ** (power(length) + 1)
            torch._foreach_lerp_(averages, list(self.weights.values()), 1.0 - kept)

    def keep(self) -> None:
        """Write the averages down as they are now. What was written of this update before is replaced; before the
        first there is nothing to write."""
        if self.updates == 0:
            return
        for length, averages in self.averages.items():
            place = Place(self.updates, length)
            tensors = dict(zip(self.weights, averages, strict=True))
            if self.folder is None:
                self.in_memory[place] = {name: tensor.clone() for name, tensor in tensors.items()}
            else:
                path, content = self.folder / place.file, serialise(tensors)
                with telling_of_no_room("an average of the weights", path, len(content)):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    with replacing(path) as file:
                        file.write(content)

    @torch.no_grad()
    def adopt(self, length: float) -> None:
        """Give the module the average of this length at the end of training."""
        snapshots = read(self.folder) if self.folder is not None else self.in_memory
        made = rebuild(snapshots, length)
        for name, weight in self.weights.items():
            weight.copy_(made[name])


class SnapshotsOnDisk(Mapping[Place, dict[str, Tensor]]):
    """The snapshots of a folder, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        found = ((path, NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.safetensors")))
        self._paths = {Place(int(name[1]), float(name[2])): path for path, name in found if name}

    def __getitem__(self, place: Place) -> dict[str, Tensor]:
        return load_file(self._paths[place])

    def __iter__(self) -> Iterator[Place]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def read(folder: Path) -> SnapshotsOnDisk:
    """The snapshots in `folder`.

    Raises:
        UserError: there are none.
    """
    found = SnapshotsOnDisk(folder)
    if not found:
        raise UserError(
            f"{folder} holds no averages to choose from; set training.averages: {{snapshots: 8}} in the recipe and "
            f"train it again"
        )
    return found


def rebuild(snapshots: Mapping[Place, Mapping[str, Tensor]], length: float) -> dict[str, Tensor]:
    """The average of sigma_rel `length` at the last update that was written down, float32 by name."""
    places = list(snapshots)
    shares = weights_of(places, Place(max(place.update for place in places), length))
    made: dict[str, Tensor] = {}
    for place, share in zip(places, shares, strict=True):
        for name, tensor in snapshots[place].items():
            added = share * tensor.double()
            made[name] = made[name] + added if name in made else added
    return {name: tensor.float() for name, tensor in made.items()}


def weights_of(places: Sequence[Place], wanted: Place) -> np.ndarray:
    """What each snapshot counts in the least-squares approximation of the wanted profile, (n,) float64.

    The x of A x = b, with A the inner products of the snapshots' profiles and b theirs with the wanted one. Scaled to a
    sum of 1, which theirs comes near when there are many: an average that sums to less would shrink the network.
    """
    updates = np.array([place.update for place in places], np.float64)
    powers = np.array([power(place.length) for place in places])
    gram = inner_product(updates[:, None], powers[:, None], updates[None, :], powers[None, :])
    right = inner_product(updates, powers, float(wanted.update), power(wanted.length))
    shares = np.linalg.lstsq(gram, right, rcond=None)[0]
    return shares / shares.sum()


def inner_product(
    first: np.ndarray, first_power: np.ndarray, second: np.ndarray | float, second_power: np.ndarray | float
) -> np.ndarray:
    """Of the profiles (g + 1) t'^g / t^(g + 1) on [0, t] of two averages, at updates t and with powers g; broadcasts.

    With a before b it is (g_a + 1) (g_b + 1) / (g_a + g_b + 1) * (t_a / t_b)^(g_b) / t_b.
    """
    ratio = first / second
    exponent = np.where(ratio < 1, second_power, -np.asarray(first_power))
    top = (first_power + 1) * (second_power + 1) * ratio**exponent
    return top / ((first_power + second_power + 1) * np.maximum(first, second))


def power(length: float) -> float:
    """gamma of the profile whose standard deviation is `length` of the training: the largest root of
    g^3 + 7 g^2 + (16 - s^-2) g + (12 - s^-2), s = sigma_rel (their eq. 6 solved for gamma)."""
    roots = np.roots([1.0, 7.0, 16.0 - length**-2, 12.0 - length**-2])
    return float(np.max(roots[np.abs(roots.imag) < 1e-9].real))
