"""Lengths of time in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from webapp.http.durations import in_words, relative

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1 second"),
        (0.2, "1 second"),
        (1, "1 second"),
        (1.01, "2 seconds"),
        (40, "40 seconds"),
        (60, "1 minute"),
        (61, "61 seconds"),
        (119.5, "2 minutes"),
        (121, "3 minutes"),
        (900, "15 minutes"),
        (3600, "1 hour"),
        (3601, "61 minutes"),
        (86400, "1 day"),
        (5 * 86400, "5 days"),
    ],
)
def test_wait_is_given_in_one_unit_and_rounded_up(seconds: float, words: str) -> None:
    """A wait of the given length is long enough."""
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (timedelta(), "just now"),
        (timedelta(seconds=-44), "just now"),
        (timedelta(seconds=-45), "45 seconds ago"),
        (timedelta(minutes=-1), "1 minute ago"),
        (timedelta(minutes=-59, seconds=-59), "59 minutes ago"),
        (timedelta(hours=-3), "3 hours ago"),
        (timedelta(days=-400), "400 days ago"),
        (timedelta(seconds=10), "in a moment"),
        (timedelta(minutes=2), "in 2 minutes"),
        (timedelta(days=13, hours=23, minutes=59), "in 14 days"),
        (timedelta(days=1), "in 1 day"),
    ],
)
def test_moment_is_given_relative_to_now(offset: timedelta, words: str) -> None:
    """The past is "ago", the future "in"."""
    assert relative(NOW + offset, NOW) == words
