"""One process that makes the suggestions of all workers of a machine.

A Gaussian process wants SciPy, which takes most of a second to import: so one process imports it, while the workers are
at their first trials. A worker whom it does not answer makes its suggestion itself, and it is the same one
(`suggestion.py`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genforge.search.tickets import Tickets

SECONDS_TO_ANSWER = 20.0  # an answer takes a tenth of a second, once all is imported
_DONE = b"+"


class Line:
    """From any number of workers to the suggester: made before they are forked, so that each has both of its ends. A
    question brings the way back with it, which closes when whoever has it ends."""

    def __init__(self) -> None:
        self._asks, self._hears = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asks.setblocking(False)

    def only_ask(self) -> None:
        """This process is a worker."""
        self._hears.close()

    def only_hear(self) -> None:
        """This process is the suggester."""
        self._asks.close()

    def close(self) -> None:
        """Nobody here needs it any more. Workers are refused, where no suggester hears them either."""
        self._hears.close()
        self._asks.close()

    def ask(self, trial: int, number: int) -> bool:
        """Have settings chosen for a trial (`Tickets.choose`). False where nobody did so."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    socket.send_fds(self._asks, [json.dumps([trial, number]).encode()], [theirs.fileno()])
                except OSError:  # nobody is there, or nobody has heard for long
                    return False
            ours.settimeout(SECONDS_TO_ANSWER)
            try:
                return ours.recv(1) == _DONE
            except OSError:
                return False

    def asked(self) -> Iterator[tuple[int, int, socket.socket]]:
        """Trial, number and way back of each question, as it comes; until all who might ask have ended."""
        while True:
            question, descriptors, _, _ = socket.recv_fds(self._hears, 1024, 1)
            if not question:
                return
            trial, number = json.loads(question)
            yield trial, number, socket.socket(fileno=descriptors[0])


def serve(line: Line, tickets: Tickets) -> None:
    """Choose settings for whoever asks."""
    from genforge.search.suggestion import load

    load()
    for trial, number, back in line.asked():
        with back:
            try:
                tickets.choose(trial, number)
            except Exception:  # the worker meets the same when it tries itself, and knows what to do
                traceback.print_exc()
            else:
                with contextlib.suppress(OSError):  # it has ended, or waits no longer
                    back.send(_DONE)
