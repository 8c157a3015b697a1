"""What the report tells, gathered: plain values and the places of pictures. How it looks is the page's affair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Model:
    """One trained recipe.

    card: its model.json.
    found: settings that the search changed, by dotted key, each with the recipe's own value and the new one.
    curves: logged values by name, each a list of (step, value).
    samples, density (of points: what it holds likely), filmstrip, trajectory (from noise to images), interpolation
        (images on the way from one to another), copies (samples beside their nearest training images): pictures; None
        where there is none. latent: pictures of the latent space by name, where there is an encoder.
    gates: what each gate found, with name, passed, words and reason; empty for a model that was not asked.
    """

    name: str
    card: Mapping[str, Any]
    found: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    samples: Path | None = None
    density: Path | None = None
    filmstrip: Path | None = None
    trajectory: Path | None = None
    interpolation: Path | None = None
    copies: Path | None = None
    latent: Mapping[str, Path] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Search:
    """One recipe's search: best.json, and the rows of trials.csv as they are written, text by column."""

    name: str
    best: Mapping[str, Any]
    trials: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    board: the leaderboard, as `evaluation.leaderboard.build` gives it. data: the data's card.json. real: its sample
    grid. commands: what to try next, each with its meaning. versions: of packages, by name. chains: where the chain of
    each alias will lie, relative to the page, once the step `register` has drawn it.
    """

    board: Mapping[str, Any]
    data: Mapping[str, Any]
    real: Path | None
    models: Sequence[Model]
    searches: Sequence[Search]
    commands: Sequence[tuple[str, str]]
    versions: Mapping[str, str]
    chains: Mapping[str, str] = field(default_factory=dict)
