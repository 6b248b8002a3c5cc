"""When a session expires, when a touch is due, and the Max-Age of the cookie. No database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.lifetime import (
    Dates,
    Lifetime,
    checked_lifetime,
    duration,
    from_datetime,
    to_datetime,
)

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def lifetime(
    max_age: Any = 1200, absolute_timeout: Any = None, touch_interval: Any = None
) -> Lifetime:
    """Make the timeouts as the constructor does; with 20 minutes a touch is due each minute."""
    return checked_lifetime(max_age, absolute_timeout, touch_interval)


def touched_at(instant_ms: int, clocks: Lifetime, own: float | None = None) -> Dates:
    """Return the dates of a session that was created and last touched then."""
    return Dates(instant_ms, instant_ms, clocks.end(instant_ms, instant_ms, own), own)


def test_session_ends_when_its_idle_timeout_has_passed() -> None:
    """One millisecond before it is active, at the instant it has expired."""
    dates = Dates(created_ms=0, last_seen_ms=0, expires_ms=DAY_MS, max_age=None)

    assert not lifetime().has_expired(dates, 1200_000 - 1)
    assert lifetime().has_expired(dates, 1200_000)


def test_session_ends_when_its_absolute_timeout_has_passed() -> None:
    """Even if it was used a millisecond before."""
    dates = Dates(created_ms=0, last_seen_ms=HOUR_MS - 1, expires_ms=DAY_MS, max_age=None)

    assert not lifetime(absolute_timeout=3600).has_expired(dates, HOUR_MS - 1)
    assert lifetime(absolute_timeout=3600).has_expired(dates, HOUR_MS)


def test_session_is_too_old_when_its_absolute_timeout_has_passed() -> None:
    """It counts from the creation; without one no session is too old."""
    dates = Dates(created_ms=MINUTE_MS, last_seen_ms=HOUR_MS, expires_ms=DAY_MS, max_age=None)
    end_ms = MINUTE_MS + HOUR_MS

    assert not lifetime(absolute_timeout=3600).is_too_old(dates, end_ms - 1)
    assert lifetime(absolute_timeout=3600).is_too_old(dates, end_ms)
    assert not lifetime().is_too_old(dates, DAY_MS)


def test_session_ends_at_its_stored_end_when_that_comes_first() -> None:
    """A raised timeout does not extend a stored session; its next touch does."""
    dates = Dates(created_ms=0, last_seen_ms=0, expires_ms=1000, max_age=None)

    assert not lifetime().has_expired(dates, 999)
    assert lifetime().has_expired(dates, 1000)


def test_max_age_of_a_session_replaces_that_of_the_storage() -> None:
    """Longer or shorter; fractions of seconds count."""
    longer = Dates(created_ms=0, last_seen_ms=0, expires_ms=DAY_MS, max_age=3600)
    shorter = Dates(created_ms=0, last_seen_ms=0, expires_ms=DAY_MS, max_age=0.5)

    assert not lifetime().has_expired(longer, HOUR_MS - 1)
    assert lifetime().has_expired(longer, HOUR_MS)
    assert not lifetime().has_expired(shorter, 499)
    assert lifetime().has_expired(shorter, 500)


def test_end_is_the_earlier_of_idle_and_absolute() -> None:
    """`expires_at` is min(last seen + idle, created + absolute)."""
    both = lifetime(max_age=1200, absolute_timeout=3600)

    assert both.end(created_ms=0, last_seen_ms=0, max_age=None) == 20 * MINUTE_MS
    assert both.end(created_ms=0, last_seen_ms=50 * MINUTE_MS, max_age=None) == HOUR_MS
    assert lifetime().end(created_ms=0, last_seen_ms=DAY_MS, max_age=None) == DAY_MS + 1200_000


def test_absolute_timeout_may_be_shorter_than_the_idle_timeout() -> None:
    """Then every session ends that long after its creation."""
    short = lifetime(max_age=1200, absolute_timeout=0.5)

    assert short.end(created_ms=0, last_seen_ms=0, max_age=None) == 500


@pytest.mark.parametrize(
    ("max_age", "touch_interval", "own", "due_ms"),
    [
        pytest.param(14 * 86400, None, None, HOUR_MS, id="an hour by default"),
        pytest.param(
            None, None, None, HOUR_MS, id="an hour where the cookie ends with the browser"
        ),
        pytest.param(1200, None, None, MINUTE_MS, id="a twentieth of a short max_age"),
        pytest.param(1200, 30, None, 30_000, id="as configured"),
        pytest.param(1200, 1199, None, MINUTE_MS, id="never above a twentieth of max_age"),
        pytest.param(14 * 86400, 7200, None, 2 * HOUR_MS, id="above an hour when configured"),
        pytest.param(14 * 86400, None, 60, 3000, id="a twentieth of the session's own max_age"),
        pytest.param(1200, None, 30 * 86400, HOUR_MS, id="an hour for a long max_age of its own"),
        pytest.param(1, None, None, 50, id="in milliseconds"),
    ],
)
def test_touch_is_due_after_the_touch_interval(
    max_age: Any, touch_interval: Any, own: float | None, due_ms: int
) -> None:
    """One write per touch interval, which is capped by the session's own max_age / 20."""
    clocks = lifetime(max_age, None, touch_interval)
    dates = touched_at(0, clocks, own)

    assert not clocks.touch_is_due(dates, None, due_ms - 1)
    assert clocks.touch_is_due(dates, None, due_ms)


def test_parallel_touch_is_not_repeated() -> None:
    """Another request of this process has touched the session."""
    clocks = lifetime()
    dates = touched_at(0, clocks)

    assert not clocks.touch_is_due(dates, MINUTE_MS, MINUTE_MS + 1)
    assert not clocks.touch_is_due(dates, MINUTE_MS, 2 * MINUTE_MS - 1)
    assert clocks.touch_is_due(dates, MINUTE_MS, 2 * MINUTE_MS)


def test_touch_is_due_once_after_the_clock_was_set_back() -> None:
    """Otherwise the cookie would expire before the clock reaches the last use again."""
    clocks = lifetime()
    dates = touched_at(DAY_MS, clocks)

    assert not clocks.touch_is_due(dates, None, DAY_MS - MINUTE_MS + 1)
    assert clocks.touch_is_due(dates, None, DAY_MS - MINUTE_MS)
    assert not clocks.touch_is_due(dates, 0, MINUTE_MS - 1)
    assert clocks.touch_is_due(dates, 0, MINUTE_MS)


def test_touch_is_due_when_a_timeout_was_raised() -> None:
    """Otherwise the session would expire before the longer touch interval has passed."""
    short, long = lifetime(max_age=600), lifetime(max_age=14 * 86400)
    dates = touched_at(0, short)

    assert not short.touch_is_due(dates, None, 1000)
    assert long.touch_is_due(dates, None, 1000)
    assert not long.touch_is_due(touched_at(0, long), None, 1000)
    assert not short.touch_is_due(touched_at(0, long), None, 1000)


def test_session_is_up_to_date_until_its_next_touch_is_due() -> None:
    """Until then a request compares two instants, and computes nothing again."""
    clocks = lifetime(max_age=1200)
    dates = touched_at(DAY_MS, clocks)

    assert clocks.up_to_date_between(dates) == (DAY_MS - MINUTE_MS, DAY_MS + MINUTE_MS)


def test_cookie_lives_as_long_as_the_idle_timeout() -> None:
    """In whole seconds, rounded up: Max-Age=0 would delete it."""
    assert lifetime(max_age=1200).cookie_seconds(0, 0, None) == 1200
    assert lifetime(max_age=0.25).cookie_seconds(0, 0, None) == 1
    assert lifetime(max_age=1200).cookie_seconds(0, 0, 90) == 90


def test_cookie_never_outlives_the_absolute_timeout() -> None:
    """Near the end Max-Age is what is left, rounded down."""
    clocks = lifetime(max_age=1200, absolute_timeout=3600)

    assert clocks.cookie_seconds(0, 0, None) == 1200
    assert clocks.cookie_seconds(0, 50 * MINUTE_MS, None) == 600
    assert clocks.cookie_seconds(0, HOUR_MS - 1500, None) == 1
    assert clocks.cookie_seconds(0, HOUR_MS + 1, None) == 0


def test_clock_that_was_set_back_ends_no_session() -> None:
    """A session with dates in the future is active, and its Max-Age is the usual one."""
    clocks = lifetime(max_age=1200, absolute_timeout=3600)
    dates = Dates(HOUR_MS, HOUR_MS, HOUR_MS + 1200_000, None)

    assert not clocks.has_expired(dates, 0)
    assert clocks.cookie_seconds(HOUR_MS, 0, None) == 1200


SECONDS = st.floats(0.001, 10**8) | st.integers(1, 10**8)
INSTANT = st.integers(0, 4 * 10**12)


@settings(deadline=None)
@given(
    max_age=SECONDS,
    absolute=st.none() | SECONDS,
    own=st.none() | SECONDS,
    created_ms=INSTANT,
    idle_ms=st.integers(0, 10**11),
    now_ms=INSTANT,
)
def test_every_session_that_is_used_is_touched_before_it_ends(
    *,
    max_age: float,
    absolute: float | None,
    own: float | None,
    created_ms: int,
    idle_ms: int,
    now_ms: int,
) -> None:
    """For any timeouts: in the last twentieth of the idle timeout a touch is due."""
    clocks = lifetime(max_age, absolute)
    last_seen_ms = created_ms + idle_ms
    dates = Dates(created_ms, last_seen_ms, clocks.end(created_ms, last_seen_ms, own), own)
    cookie_seconds = clocks.cookie_seconds(created_ms, now_ms, own)

    just_before = last_seen_ms + clocks.idle_of(own) - 1
    if clocks.idle_of(own) > 1 and not clocks.has_expired(dates, just_before):
        assert clocks.touch_is_due(dates, None, just_before)
    assert clocks.has_expired(dates, clocks.end(created_ms, last_seen_ms, own))
    assert 0 <= cookie_seconds <= clocks.idle_of(own) / 1000 + 1
    if clocks.absolute_ms is not None:
        assert now_ms + cookie_seconds * 1000 <= max(now_ms, created_ms + clocks.absolute_ms)


@pytest.mark.parametrize(
    "instant",
    [
        pytest.param(datetime(2026, 11, 23, 12, tzinfo=UTC), id="aware UTC"),
        pytest.param(datetime(2026, 11, 23, 12), id="naive, as drivers give them"),  # noqa: DTZ001
        pytest.param(
            datetime(2026, 11, 23, 14, tzinfo=timezone(timedelta(hours=2))), id="another zone"
        ),
    ],
)
def test_dates_are_milliseconds_whatever_their_form(instant: datetime) -> None:
    """Every form of an instant is the same number, and is read back as aware UTC."""
    assert from_datetime(instant) == 1_795_435_200_000
    assert to_datetime(1_795_435_200_000) == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert to_datetime(0).tzinfo is UTC


def test_dates_keep_their_milliseconds() -> None:
    """BSON has milliseconds; none is lost, before the epoch either."""
    for milliseconds in (-1, 0, 1, 999, 1_795_435_200_123, 253_402_300_799_999):
        assert from_datetime(to_datetime(milliseconds)) == milliseconds


def test_duration_is_seconds_or_a_timedelta_or_absent() -> None:
    """A wrong duration is refused with the name of the argument."""
    assert duration("idle", None) is None
    assert duration("idle", 1.5) == timedelta(seconds=1.5)
    assert duration("idle", timedelta(days=36500)) == timedelta(days=36500)
    with pytest.raises(ValueError, match=r"^idle: "):
        duration("idle", timedelta(days=36500, milliseconds=1))
    with pytest.raises(ValueError, match=r"^idle: "):
        duration("idle", 0.0009)
