"""Lengths of time in words: "40 seconds", "2 minutes ago", "in 13 days".

One unit is enough for people; a page shows the exact time beside it.
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
    """Round up to whole seconds, to at least one."""
    return max(1, math.ceil(seconds))


def in_words(seconds: float) -> str:
    """Say how long `seconds` is, rounded up, so that a wait of that length is long enough.

    A unit is used from two of it on ("90 seconds", then "2 minutes"), and for exactly one
    ("1 minute").
    """
    whole = whole_seconds(seconds)
    for size, name in UNITS:
        if whole >= 2 * size or whole == size:
            return _count(math.ceil(whole / size), name)
    raise AssertionError("a whole second is at least one second")  # pragma: no cover


def relative(moment: datetime, now: datetime) -> str:
    """Say when `moment` is, relative to `now`: "just now", "3 hours ago", "in 13 days".

    Both are aware datetimes. The past is rounded down, the future to the nearest unit.
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
