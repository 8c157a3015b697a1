"""What a search tries before anything is known of these data: the recipe's own settings, then its portfolio, and for
the rest a Latin hypercube.

A portfolio is a few settings that did well on other data (Pfisterer et al. 2021, "Learning multiple defaults for
machine learning algorithms", arXiv:1811.09409; Feurer et al. 2022, "Auto-sklearn 2.0", arXiv:2007.04074): what is best
differs from data to data by less than a range is wide. `tests/benchmarks/portfolio.py` finds them.

The hypercube (McKay, Beckman and Conover 1979, "A comparison of three methods for selecting values of input variables
in the analysis of output from a computer code"): each setting's range is cut into as many parts as there are trials,
and every part of every setting is tried once. The trials before it take one each, so the others take the parts that
these leave. Of several such hypercubes the one is taken whose nearest two trials lie farthest apart (a maximin design;
Johnson, Moore and Ylvisaker 1990, "Minimax and maximin distance designs"). Trials at random would leave a third of the
parts untried, and the process that suggests the next ones would learn less of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from genforge.dimension import Dimension
from genforge.search.plan import Value

HYPERCUBES = 64  # drawn, of which the one that spreads most is taken


def first_settings(
    space: Mapping[str, Dimension],
    defaults: Mapping[str, Value],
    trials: int,
    seed: int,
    portfolio: Sequence[Mapping[str, Value]] = (),
) -> list[dict[str, Value]]:
    """Settings of the first trials, `trials` of them, the defaults in front and as much of the portfolio as there is
    room for behind them.

    A choice, or a whole number, may have fewer values than there are parts: then some come twice.

    Args:
        portfolio: values within the space, best first; what an entry does not name is as in the defaults.
    """
    known = [dict(defaults), *({**defaults, **entry} for entry in portfolio)]
    known = [settings for number, settings in enumerate(known) if settings not in known[:number]][:trials]
    places = np.array([[space[key].place(settings[key]) for key in space] for settings in known])
    random = np.random.default_rng(seed)
    spread = max((_hypercube(places, trials, random) for _ in range(HYPERCUBES)), key=_nearest)
    others = [dict(zip(space, row, strict=True)) for row in spread[len(known) :].tolist()]
    return [*known, *({key: space[key].at(place) for key, place in row.items()} for row in others)]


def _hypercube(known: np.ndarray, trials: int, random: np.random.Generator) -> np.ndarray:
    """Places in [0, 1), (trials, settings), the first of them `known`, (at most trials, settings)."""
    left = trials - len(known)
    columns = []
    for column in known.T:
        taken = np.minimum((column * trials).astype(int), trials - 1)
        others = random.permutation(np.setdiff1d(np.arange(trials), taken))[:left]  # known ones may share a part
        columns.append((others + random.random(left)) / trials)
    return np.vstack([known, np.stack(columns, axis=1)])


def _nearest(places: np.ndarray) -> float:
    """The least distance of two of them."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float(apart[np.triu_indices(len(places), k=1)].min())
