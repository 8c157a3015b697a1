"""Telling a team what a flow came to: the webhook (`genforge.webhook`), and the Prefect block that
`GENFORGE_NOTIFY_BLOCK` names, such as `slack-webhook/team`. Neither ever fails the flow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from genforge.progress import say
from genforge.webhook import tell

BLOCK = "GENFORGE_NOTIFY_BLOCK"


def notify(event: str, text: str, facts: Mapping[str, Any] | None = None) -> None:
    """Tell an event, see `genforge.webhook.tell`, everywhere."""
    tell(event, text, facts)
    notify_block(event, text)


def notify_block(event: str, text: str) -> None:
    """Tell it to the block alone, where the webhook was told already."""
    name = os.environ.get(BLOCK)
    if not name:
        return
    try:
        from prefect.blocks.core import Block

        block: Any = Block.load(name)
        block.notify(text, f"genforge: {event}")
    except Exception as error:  # a block is anybody's code, and its failure nobody's reason to retrain again
        say(f"warning: the block {name!r} in {BLOCK} was not told that {text!r} ({type(error).__name__})")
