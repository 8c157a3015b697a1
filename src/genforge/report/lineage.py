"""Where a model comes from as a drawn chain: an SVG from the alias at the top down to the raw images.

Narrow enough for a phone, so that chains stand side by side where there is room and under one another where there is
none; light or dark as the page around it; its text can be selected, and read aloud. It loads nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from genforge.files import write_text
from genforge.report.figures import DARK, LIGHT, Theme

WIDTH = 320  # CSS pixels: three of them stand side by side on the page
_INSET = 14  # from a box's edge to its text
_NAME, _LETTERS, _DIGITS = 34, 45, 43  # letters that fit on a line of a name, of words, of a digest
_TITLE, _LINE = 22, 16  # heights of lines
_GAP = 34  # between boxes: the arrow, with its word
_SUNK = {"light": "#f6f7f8", "dark": "#21252a"}


@dataclass(frozen=True)
class Link:
    """One link of a chain, from its top.

    what: its kind, such as `prepared data`. name: which one. words: what else is known of it. digests: what names its
    contents for good, each with what it is a digest of. arrow: how the link above follows from this one.
    """

    what: str
    name: str
    words: Sequence[str] = ()
    digests: Sequence[tuple[str, str]] = ()
    arrow: str = ""


def picture_name(alias: str) -> str:
    """The file of an alias's chain, by a name that cannot leave its folder."""
    return f"{quote(alias, safe='')}.svg"


def draw(path: Path, chain: Sequence[Link], title: str) -> None:
    """Write the chain as an SVG."""
    write_text(path, picture(chain, title))


def picture(chain: Sequence[Link], title: str) -> str:
    """The chain as the text of an SVG; the same chain gives the same text."""
    parts: list[str] = []
    y = 1
    for place, link in enumerate(chain):
        if place:
            parts.append(_arrow(y, link.arrow))
            y += _GAP
        drawn, height = _box(y, link, is_first=place == 0)
        parts.append(drawn)
        y += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 1}" viewBox="0 0 {WIDTH} {y + 1}" '
        f'role="img">\n<title>{escape(title)}</title>\n<style>{_style()}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _box(y: int, link: Link, is_first: bool) -> tuple[str, int]:
    """A box from `y` on, and its height."""
    lines = [("kind", link.what), *(("name", line) for line in textwrap.wrap(link.name, _NAME))]
    for words in link.words:
        lines += [("words", line) for line in textwrap.wrap(words, _LETTERS)]
    for title, digest in link.digests:
        lines += [("words", title), *(("digest", line) for line in textwrap.wrap(digest, _DIGITS))]
    at, rows = y + 4, []
    for kind, text in lines:
        at += _TITLE if kind == "name" else _LINE
        rows.append(f'<text class="{kind}" x="{_INSET}" y="{at}">{escape(text)}</text>')
    height = at + 12 - y
    box = f'<rect class="{"first" if is_first else "box"}" x="1" y="{y}" width="{WIDTH - 2}" height="{height}" rx="6"/>'
    return "\n".join([f"<g>{box}", *rows, "</g>"]), height


def _arrow(y: int, word: str) -> str:
    x = _INSET + 8
    return (
        f'<path class="arrow" d="M{x} {y + _GAP} V{y + 4} m-4 6 l4 -6 l4 6"/>'
        f'<text class="word" x="{x + 14}" y="{y + _GAP // 2 + 4}">{escape(word)}</text>'
    )


def _style() -> str:
    shape = (
        ":root{color-scheme:light dark}"  # else it has a white ground on a dark page
        "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif}"
        ".name{font-size:15px;font-weight:600}"
        ".digest{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace}"
        ".arrow{fill:none;stroke-width:1.3}.box,.first{stroke-width:1}.first{stroke-width:1.6}.word{font-style:italic}"
    )
    return shape + _colours(LIGHT) + f"@media (prefers-color-scheme:dark){{{_colours(DARK)}}}"


def _colours(theme: Theme) -> str:
    return (
        f".box{{fill:{_SUNK[theme.name]};stroke:{theme.line}}}.first{{fill:{_SUNK[theme.name]};stroke:{theme.colour(0)}}}"
        f".name,.digest{{fill:{theme.ink}}}.kind,.words,.word{{fill:{theme.muted}}}.arrow{{stroke:{theme.muted}}}"
    )
