"""What a search tries before anything is known: a Latin hypercube (McKay, Beckman and Conover 1979, "A comparison of
three methods for selecting values of input variables in the analysis of output from a computer code").

Each setting's range is cut into as many parts as there are trials, and every part of every setting is tried once. The
recipe's own settings, which the first trial has, are one of them, so the others take the parts that these leave. Of
several such hypercubes the one is taken whose nearest two trials lie farthest apart (a maximin design; Johnson, Moore
and Ylvisaker 1990, "Minimax and maximin distance designs"). Trials at random would leave a third of the parts untried,
and the process that suggests the next ones would learn less of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genforge.dimension import Dimension
from genforge.search.plan import Value

HYPERCUBES = 64  # drawn, of which the one that spreads most is taken


def first_settings(
    space: Mapping[str, Dimension], defaults: Mapping[str, Value], trials: int, seed: int
) -> list[dict[str, Value]]:
    """Settings of the first trials, `trials` of them, the defaults in front.

    A choice, or a whole number, may have fewer values than there are parts: then some come twice.
    """
    own = np.array([dimension.place(defaults[key]) for key, dimension in space.items()])
    random = np.random.default_rng(seed)
    spread = max((_hypercube(own, trials, random) for _ in range(HYPERCUBES)), key=_nearest)
    others = [dict(zip(space, row, strict=True)) for row in spread[1:].tolist()]
    return [dict(defaults), *({key: space[key].at(place) for key, place in row.items()} for row in others)]


def _hypercube(own: np.ndarray, trials: int, random: np.random.Generator) -> np.ndarray:
    """Places in [0, 1), (trials, settings), the first of them `own`, (settings,)."""
    columns = []
    for place in own:
        others = np.delete(np.arange(trials), min(int(place * trials), trials - 1))
        columns.append((random.permutation(others) + random.random(trials - 1)) / trials)
    return np.vstack([own, np.stack(columns, axis=1)])


def _nearest(places: np.ndarray) -> float:
    """The least distance of two of them."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float(apart[np.triu_indices(len(places), k=1)].min())
