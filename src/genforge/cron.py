"""Times that come again and again, as cron writes them: five fields, of which each tells when it is met.

Of what crons differ about (`@daily`, seconds, `L`, `#`, `?`) nothing is read here, so that a schedule means the same
whoever keeps it.
"""

from __future__ import annotations

FORM = "five fields such as '0 3 * * *', every night at three: minute, hour, day of the month, month, weekday"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS: dict[str, tuple[int, int, tuple[str, ...]]] = {  # the least and the most, and names for those from the least on
    "minute": (0, 59, ()),
    "hour": (0, 23, ()),
    "day of the month": (1, 31, ()),
    "month": (1, 12, MONTHS),
    "weekday": (0, 7, DAYS),  # 0 and 7 are both Sunday
}


def check_cron(text: str) -> str:
    """`text`, when it is five fields, each a list of `*`, numbers, names or ranges, with `/step` behind them or not.

    Raises:
        ValueError: what it should be instead.
    """
    given = text.split()
    if len(given) != len(FIELDS):
        raise ValueError(FORM)
    for name, field in zip(FIELDS, given, strict=True):
        if not all(_is_met_somewhen(part, *FIELDS[name]) for part in field.lower().split(",")):
            least, most, names = FIELDS[name]
            called = f", {names[0]} to {names[-1]}" if names else ""
            raise ValueError(f"{FORM}; {field!r} is no {name}: `*`, {least} to {most}{called}, 1-5, */2 or 1,4")
    return text


def _is_met_somewhen(part: str, least: int, most: int, names: tuple[str, ...]) -> bool:
    """Whether `part` of a field's list is such as `*`, `5`, `mon`, `1-5`, or one of these with a step: `*/2`."""
    times, slash, step = part.partition("/")
    if slash and not (_is_number(step) and int(step)):
        return False
    ends = times.split("-")
    return times == "*" or (
        len(ends) <= 2 and all(end in names or (_is_number(end) and least <= int(end) <= most) for end in ends)
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 2
