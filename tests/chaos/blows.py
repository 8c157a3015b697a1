"""Who is struck, with what, and when: a function of the seed alone.

A blow names the kinds of process that it would like to hit, the dearest first; it falls on the first of them that is
alive at its moment. So a seed gives the same blows on every machine, and on a slow one too each finds a victim.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass

# How often each kind is named first, relative to the others. `terminal` is the command with all that it has started in
# the foreground, as Ctrl-C or a closed window reaches them.
VICTIMS = {
    "train": 6,
    "worker": 6,
    "search": 2,
    "evaluate": 4,
    "step": 4,
    "dvc": 2,
    "flow": 2,
    "prefect": 1,
    "uploader": 3,
    "mlflow": 2,
    "terminal": 1,
    "doctor": 1,
}
SIGNALS = {
    signal.SIGKILL: 6,
    signal.SIGTERM: 3,
    signal.SIGINT: 2,
    signal.SIGHUP: 2,
    signal.SIGSTOP: 2,  # and SIGCONT after a pause
}
LONGEST_PAUSE = 3.0  # seconds between SIGSTOP and SIGCONT
VISITS = 0.1  # share of blows after which someone calls `genforge doctor --fix` while everything runs


@dataclass(frozen=True)
class Blow:
    """wait: seconds since the blow before. victims: kinds in order of preference. pause: seconds, for SIGSTOP.
    visit: whether the doctor is called after it."""

    number: int
    wait: float
    victims: tuple[str, ...]
    signal: signal.Signals
    pause: float
    visit: bool

    def __str__(self) -> str:
        pause = f" for {self.pause:.1f} s" if self.signal == signal.SIGSTOP else ""
        return f"{self.number}: after {self.wait:.1f} s {self.signal.name}{pause} to {', '.join(self.victims[:3])}, ..."


def blows(seed: int, pace: float) -> Iterator[Blow]:
    """The campaign's blows, without end.

    Args:
        seed: of all of them.
        pace: mean seconds from one to the next.
    """
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        wait = chance.expovariate(1 / pace)  # as independent mishaps come: in bursts, with calm between
        # A weighted order (Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir").
        keys = {kind: chance.random() ** (1 / weight) for kind, weight in VICTIMS.items()}
        victims = tuple(sorted(keys, key=keys.__getitem__, reverse=True))
        (number_of_signal,) = chance.choices(list(SIGNALS), list(SIGNALS.values()))
        pause, visit = chance.uniform(0.2, LONGEST_PAUSE), chance.random() < VISITS
        yield Blow(number, wait, victims, signal.Signals(number_of_signal), pause, visit)
