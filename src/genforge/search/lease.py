"""Who still works on a trial.

A worker of this machine lives as long as its process does. One of another machine gives signs of life, in the trial
itself, and is taken to be dead when none has come for the length of a lease. No clocks are compared: what counts is how
long the watcher has seen the same sign.

A worker that was only slow, or cut off, loses its trial too. It learns that at its next report, from the storage: a
trial that was taken from it is finished there, and a finished trial can never be written again.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from genforge.processes import Identity
from genforge.search.plan import Lost

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SIGNS_A_LEASE = 10  # so many may be late before the trial is lost
SECONDS_TO_SIGN = 10.0  # between claiming a trial and signing it, which takes milliseconds


class Watch:
    """Tells running trials whose worker is dead. It has to be asked again and again, for it goes by what it sees.

    Args:
        lease: seconds without a sign of life of a worker elsewhere.
        to_sign: seconds after which a trial that was claimed and not signed has lost its worker in that very moment.
            To be wrong here costs the worker no more than another claim.
    """

    def __init__(self, lease: float, to_sign: float = SECONDS_TO_SIGN) -> None:
        self._lease, self._to_sign = lease, to_sign
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_dead(self, attempt: FrozenTrial) -> bool:
        """Whether nobody works on this running trial any more."""
        signature = attempt.user_attrs.get("worker")
        if signature is not None:
            worker = Identity.from_json(signature)
            if worker.is_here():
                return worker.is_gone()
        sign, now = attempt.user_attrs.get("alive"), time.monotonic()
        if attempt.number not in self._seen or self._seen[attempt.number][0] != sign:
            self._seen[attempt.number] = sign, now
        return now - self._seen[attempt.number][1] >= (self._to_sign if signature is None else self._lease)


class Signs:
    """Gives a sign of life now and then, for as long as the block lasts.

    Args:
        give: gives one. Raises Lost when the trial is not this worker's any more: then no other follows.
        every: seconds between two.
    """

    def __init__(self, give: Callable[[], None], every: float) -> None:
        self._give, self._every = give, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        """No sign is given after the block: it would meet a finished trial. A process that ends need not wait."""
        self._ended.set()
        if not isinstance(value, SystemExit):
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._give()
            except Lost:
                return  # the worker learns it itself, at its next report
            except Exception:  # the next one may get through; if none does, the trial's own next report says why
                traceback.print_exc()
