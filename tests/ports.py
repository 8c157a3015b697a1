"""Ports of this machine for servers that tests start, and that have to be told before they are taken."""

from __future__ import annotations

import contextlib
import secrets
import socket

# Below all that the kernel gives to connections that go out (32768 and up, by default), which come and go at any time:
# so between the choice and the server's start it is only another chooser who could take the port, one in 12,000.
FIRST, LAST = 20_000, 32_000


def free_port() -> int:
    """A port of the loopback address on which nobody listens now."""
    while True:
        port = FIRST + secrets.randbelow(LAST - FIRST)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
