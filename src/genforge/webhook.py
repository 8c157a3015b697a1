"""Telling a team: one POST of JSON to the address in `GENFORGE_WEBHOOK`, where there is one.

`text` is what Slack, Mattermost and their like show; the other keys are for programs. Nothing waits for the receiver
longer than some seconds, and nothing fails with it: what it did not hear is said on the screen.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from genforge.progress import say

ADDRESS = "GENFORGE_WEBHOOK"
SECONDS = 5.0


def tell(event: str, text: str, facts: Mapping[str, Any] | None = None) -> bool:
    """Send an event.

    Args:
        event: what happened, for programs: `promoted`, `rolled back`, `retrained`, `nothing new`, `failed`.
        text: the same for people, in a sentence.
        facts: plain values beside them.

    Returns:
        Whether the receiver has taken it. False also where nobody wants to be told.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return False
    body = json.dumps({"text": text, "event": event, "host": socket.gethostname(), **(facts or {})}, default=str)
    try:
        if urlsplit(address).scheme not in ("http", "https"):
            raise ValueError("it should begin with http:// or https://")
        request = urllib.request.Request(  # noqa: S310  the scheme is looked at above
            address, data=body.encode(), headers={"Content-Type": "application/json", "User-Agent": "genforge"}
        )
        with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310
            return True
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The address may hold a secret, and so may the error's own text: neither is repeated.
        say(f"warning: the webhook in {ADDRESS} was not told that {text!r} ({_kind(error)})")
        return False


def _kind(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return type(error.reason).__name__
    return type(error).__name__ if isinstance(error, OSError) else "it is no address: http:// or https://"
