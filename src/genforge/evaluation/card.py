"""What is known of an extractor without opening it, and so without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genforge.files import read_json
from genforge.settings import UserError

CARD = "card.json"


def card_for(extractor_folder: Path, prepared_folder: Path) -> dict[str, Any]:
    """The card of the extractor that the step `extractor` left in its folder, for the data in `prepared_folder`.

    Raises:
        UserError: one of the two cards is missing or damaged, or the extractor was made for other data.
    """
    card, data = read_json(extractor_folder / CARD), read_json(prepared_folder / "card.json")
    if card["data"] != data["digest"]:
        raise UserError(
            f"the extractor in {extractor_folder} was made for data {card['data']}, but {prepared_folder} holds "
            f"{data['digest']}; run `genforge step extractor`"
        )
    return card
