"""Lengths of time in words: "40 seconds", "2 minutes ago", "in 13 days".

One unit is enough for a person; the exact time stands beside it in the page.
"""

from __future__ import annotations

import math
from datetime import datetime

UNITS = (
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
    (1, "second"),
)
JUST_NOW_SECONDS = 45.0


def whole_seconds(seconds: float) -> int:
    """Round up to a whole second, and to one second at the least."""
    return max(1, math.ceil(seconds))


def in_words(seconds: float) -> str:
    """Say how long `seconds` is, rounded up: whoever waits that long has waited enough.

    Two of a unit are the least that is said in it ("90 seconds", then "2 minutes"), except
    where the length is exactly one ("1 minute").
    """
    whole = whole_seconds(seconds)
    for size, name in UNITS:
        if whole >= 2 * size or whole == size:
            return _count(math.ceil(whole / size), name)
    raise AssertionError("a whole second is at least one second")  # pragma: no cover


def relative(moment: datetime, now: datetime) -> str:
    """Say when `moment` is, seen from `now`: "just now", "3 hours ago", "in 13 days".

    Both are aware datetimes. What is past is rounded down, what is to come to the nearest whole.
    """
    seconds = (moment - now).total_seconds()
    distance = abs(seconds)
    if distance < JUST_NOW_SECONDS:
        return "just now" if seconds <= 0 else "in a moment"
    size, name = next(unit for unit in UNITS if distance >= unit[0])
    if seconds > 0:
        return f"in {_count(round(distance / size), name)}"
    return f"{_count(int(distance // size), name)} ago"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
