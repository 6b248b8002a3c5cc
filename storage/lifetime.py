"""When a session expires, and when its dates move. Pure: the time is an argument.

Instants are whole milliseconds since the epoch, which is what BSON stores (bsonspec.org, type 9):
a load compares them as they come. Names that end in ``_ms`` carry them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

DEFAULT_IDLE_SECONDS = 14 * 24 * 3600
DEFAULT_TOUCH = timedelta(hours=1)
TOUCHES_PER_IDLE_TIMEOUT = 20
LONGEST = timedelta(days=36500)
# Two instants with none in between: see ``Lifetime.up_to_date_between``.
NEVER_UP_TO_DATE = (0, 0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_MILLISECOND = timedelta(milliseconds=1)


class Dates(NamedTuple):
    """The instants of one stored session; ``max_age`` is its own idle timeout, in seconds."""

    created_ms: int
    last_seen_ms: int
    expires_ms: int
    max_age: float | None


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The timeouts that an app configured, in milliseconds."""

    idle_ms: int
    absolute_ms: int | None
    touch_ms: int

    def idle_of(self, max_age: float | None) -> int:
        """Return a session's idle timeout: its own, where the app set one."""
        return self.idle_ms if max_age is None else int(max_age * 1000)

    def end(self, created_ms: int, last_seen_ms: int, max_age: float | None) -> int:
        """Return the instant at which a session expires unless it is used again."""
        idle_end = last_seen_ms + self.idle_of(max_age)
        if self.absolute_ms is None:
            return idle_end
        return min(idle_end, created_ms + self.absolute_ms)

    def has_expired(self, dates: Dates, now_ms: int) -> bool:
        """Tell whether a session has expired, by its stored dates or by today's timeouts."""
        created_ms, last_seen_ms, expires_ms, max_age = dates
        return now_ms >= expires_ms or now_ms >= self.end(created_ms, last_seen_ms, max_age)

    def is_too_old(self, dates: Dates, now_ms: int) -> bool:
        """Tell whether the absolute timeout has passed, which no use of a session extends."""
        return self.absolute_ms is not None and now_ms >= dates.created_ms + self.absolute_ms

    def touch_is_due(self, dates: Dates, touched_ms: int | None, now_ms: int) -> bool:
        """Tell whether to write that a session is in use, and to send its cookie again.

        ``touched_ms`` is when a parallel request last did so, as far as this process knows.
        """
        created_ms, last_seen_ms, expires_ms, max_age = dates
        interval_ms = self._interval_ms(max_age)
        if touched_ms is not None and abs(now_ms - touched_ms) < interval_ms:
            return False
        # In both directions: after a clock that ran ahead was set back, the cookie would expire
        # before the clock reaches the stored last use again.
        if abs(now_ms - last_seen_ms) >= interval_ms:
            return True
        # A timeout was raised since: under the longer touch interval that goes with it, the
        # session would reach its stored end while in use.
        return expires_ms < self.end(created_ms, last_seen_ms, max_age)

    def up_to_date_between(self, dates: Dates) -> tuple[int, int]:
        """Return two instants between which a session has not expired and no touch is due.

        Computed once for each load: most requests then need two comparisons only.
        """
        created_ms, last_seen_ms, expires_ms, max_age = dates
        end_ms = self.end(created_ms, last_seen_ms, max_age)
        if expires_ms < end_ms:
            return NEVER_UP_TO_DATE  # a timeout was raised since: see ``touch_is_due``
        interval_ms = self._interval_ms(max_age)
        return last_seen_ms - interval_ms, min(last_seen_ms + interval_ms, end_ms)

    def _interval_ms(self, max_age: float | None) -> int:
        return min(self.touch_ms, self.idle_of(max_age) // TOUCHES_PER_IDLE_TIMEOUT)

    def cookie_seconds(self, created_ms: int, now_ms: int, max_age: float | None) -> int:
        """Return the cookie's Max-Age: the idle timeout, never beyond the absolute one."""
        idle = math.ceil(self.idle_of(max_age) / 1000)
        if self.absolute_ms is None:
            return idle
        return min(idle, max(0, (created_ms + self.absolute_ms - now_ms) // 1000))


def checked_lifetime(max_age: object, absolute_timeout: object, touch_interval: object) -> Lifetime:
    """Build the timeouts from constructor arguments; raises errors that name the argument."""
    idle = duration("max_age", max_age) or timedelta(seconds=DEFAULT_IDLE_SECONDS)
    absolute = duration("absolute_timeout", absolute_timeout)
    touch = duration("touch_interval", touch_interval) or DEFAULT_TOUCH
    if touch_interval is not None and touch >= idle:
        raise ValueError(f"touch_interval: {touch} is not below max_age ({idle}); use less")
    return Lifetime(
        idle_ms=idle // _MILLISECOND,
        absolute_ms=None if absolute is None else absolute // _MILLISECOND,
        touch_ms=touch // _MILLISECOND,
    )


def duration(name: str, value: object) -> timedelta | None:
    """Read seconds (a number above zero), a ``timedelta``, or ``None``; errors carry ``name``."""
    accepted = "use seconds, a timedelta or None"
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(f"{name}: {type(value).__name__} is not accepted; {accepted}")
    try:
        span = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):
        span = timedelta(0)
    if not _MILLISECOND <= span <= LONGEST:
        raise ValueError(f"{name}: {value!r} is not between 1 ms and {LONGEST.days} days")
    return span


def whole(seconds: float) -> float:
    """Return whole seconds as an ``int``, fractions as they are."""
    return int(seconds) if seconds == int(seconds) else seconds


def to_datetime(instant_ms: int) -> datetime:
    """Convert to an aware UTC ``datetime``."""
    return _EPOCH + instant_ms * _MILLISECOND


def from_datetime(instant: datetime) -> int:
    """Convert from a ``datetime``; a naive one is UTC, as MongoDB's drivers return them."""
    since = instant - (_NAIVE_EPOCH if instant.tzinfo is None else _EPOCH)
    # In whole numbers, as // _MILLISECOND does it, for a third of the time.
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
