"""What a gate is: a named check with a limit and a reason, between a model and an alias.

A gate looks at a case and finds that it passes or not, in words and with evidence. Adding one takes a file with its
class and settings here, a line in `catalog.GATES`, and an entry under `gates:` in params.yaml.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from genforge.evaluation.features import Features
from genforge.evaluation.memorization import Nearest, nearest
from genforge.evaluation.metrics import METRICS
from genforge.evaluation.reference import Reference
from genforge.evaluation.statistics import Statistic, statistic_of
from genforge.evaluation.uncertainty import pooled
from genforge.settings import Settings

if TYPE_CHECKING:
    from genforge.evaluation.extractor import Extractor

Reason = Annotated[str, Field(min_length=1, description="why this gate is there: told with its verdict")]


class GateSettings(Settings):
    """What every gate states beside its limit."""

    reason: Reason


@dataclass(frozen=True)
class Finding:
    """What a gate found. words: one sentence for people. evidence: the numbers, as JSON; none of them NaN."""

    passed: bool
    words: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass
class Ground:
    """What models are set against: the data and the judge's eyes. The same for every model of a project.

    root: the project's folder, where paths of settings start.
    reference: the training images as the judge sees them.
    training, held_out: images, uint8 (n, height, width, channels).
    classes: names; empty without labels. training_labels, held_out_labels: int64 (n,), numbers of `classes`, or None.
    metric: what `better` means, `fid` or `kid`.
    """

    root: Path
    extractor: Extractor
    reference: Reference
    training: np.ndarray
    held_out: np.ndarray
    classes: Sequence[str]
    training_labels: np.ndarray | None
    held_out_labels: np.ndarray | None
    metric: str = "fid"
    batch_size: int = 250

    @cached_property
    def held_out_seen(self) -> Features:
        return self.extractor.features(self.held_out, self.batch_size)

    @cached_property
    def held_out_nearest(self) -> Nearest:
        return nearest(self.held_out_seen.features, self.reference.features)

    @cached_property
    def statistic(self) -> Statistic:
        """The metric that says which model is better."""
        return statistic_of(METRICS[self.metric], self.reference)


@dataclass(frozen=True)
class Alone:
    """How a model did in a process of its own. problem: what went wrong, empty for nothing. images: uint8 (n, height,
    width, channels), or None. seconds: from start to end. requirements: what the model says that it needs."""

    problem: str
    images: np.ndarray | None
    seconds: float
    requirements: Sequence[str] = ()


@dataclass
class Candidate:
    """A model before its gates.

    images: a set for each sampling seed, uint8 (n, height, width, channels). numbers: whatever was measured of it, by
    name. tensors: its weights by name, when asked. alone: draws so many images of the first seed in a clean process.
    """

    name: str
    images: Sequence[np.ndarray]
    look: Callable[[np.ndarray], Features]
    numbers: Mapping[str, float]
    tensors: Callable[[], Mapping[str, np.ndarray]]
    images_per_second: float
    megabytes: float
    alone: Callable[[int], Alone]

    @cached_property
    def seen(self) -> list[Features]:
        """What the judge sees in the images, a set for each sampling seed."""
        return [self.look(images) for images in self.images]

    @cached_property
    def all_seen(self) -> Features:
        return pooled(self.seen)

    @cached_property
    def all_images(self) -> np.ndarray:
        return np.concatenate(list(self.images))


@dataclass(frozen=True)
class Holder:
    """The model that holds the alias: what it is called, and what the judge sees in its images of the same seeds."""

    name: str
    seen: Sequence[Features]


class Gate(ABC):
    """A check with its settings.

    Class attributes: `settings_type`; `compares`, whether it sets the candidate against an alias's holder (and so is
    asked when the alias is to move) or looks at the candidate alone.
    """

    settings_type: ClassVar[type[GateSettings]]
    compares: ClassVar[bool] = False

    def __init__(self, settings: Any, where: str) -> None:
        self.settings, self.where = settings, where

    @abstractmethod
    def check(self, candidate: Candidate, ground: Ground, holder: Holder | None = None) -> Finding:
        """Look at the candidate. `holder` is None where nobody holds the alias."""
