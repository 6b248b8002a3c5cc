"""The numbers that cannot be configured are those of the API page."""

from __future__ import annotations

from storage import (
    batching,
    cache,
    changes,
    driver,
    following,
    forwards,
    indexes,
    lifetime,
    mongo,
    moving,
    owners,
    pacing,
    renewal,
    saving,
    store,
    tokens,
    watching,
)
from tests.docs.markdown import ROOT, table

IDLE_DAYS = lifetime.DEFAULT_IDLE_SECONDS / 86400
TOUCH_HOURS = lifetime.DEFAULT_TOUCH.total_seconds() / 3600
PAUSE_SECONDS = driver.THROTTLED_PAUSE_SECONDS
LIMITS = {
    "sessions in the cache of a process": f"{cache.SESSIONS_KEPT:,}",
    "bytes of a document whose session is cached": f"{cache.LARGEST_BYTES:,}",
    "session tokens whose hash is cached": f"{tokens.CACHED_TOKENS:,}",
    "sessions whose last touch a process remembers": f"{saving.KNOWN_TOUCHES:,}",
    "cookies of the same name that are looked up for a request": f"{mongo.TOKENS_TRIED}",
    "requests that share one command": f"{batching.BATCH_SIZE}",
    "loads, and saves, that wait; the next one is answered with 503": f"{batching.QUEUE_LENGTH:,}",
    "commands for loads, and for saves, under way at once": f"{pacing.MOST_UNDER_WAY}",
    "idle timeout of sessions that end with the browser": f"{IDLE_DAYS:g} days",
    "touch interval, if none is given": f"{TOUCH_HOURS:g} hour",
    "longest touch interval, of the idle timeout": f"1/{lifetime.TOUCHES_PER_IDLE_TIMEOUT}",
    "how long late saves and sign-outs follow a renewal": f"{forwards.FOLLOWED_MS / 1000:g} s",
    "renewals within that time that they follow": f"{store.MOST_MOVES}",
    "tries of a late save, while others change the same values": f"{following.MOST_TRIES}",
    "tries of a renewal, while others change the session": f"{renewal.MOST_TRIES}",
    "levels of nested values": f"{changes.MOST_NESTED}",
    "characters of a device's name": f"{saving.LABEL_CHARACTERS}",
    "sessions that a sign-in ends beyond `max_sessions_per_owner`": f"{owners.MOST_ENDED:,}",
    "sessions that `sessions()` reads with one command": f"{driver.READ_AT_ONCE}",
    "interval of `watch_session` at least": f"{watching.SHORTEST_SECONDS:g} s",
    "interval of `watch_session` at most": f"{watching.LONGEST_SECONDS:g} s",
    "looks of `keep_alive` in each idle timeout, at least": f"{watching.LOOKS_PER_IDLE_TIMEOUT}",
    "pause before a throttled command is sent again; it doubles": f"{PAUSE_SECONDS:g} s",
    "time in which the same cause is logged once": f"{driver.REPORT_SECONDS:g} s",
    "how long an app's start waits for the indexes": f"{indexes.START_WAITS_SECONDS:g} s",
    "pause between two tries to create the indexes": f"{indexes.RETRY_SECONDS:g} s",
    "`moving_from`: how long the old cookie finds the new session": f"{moving.LATE_MS / 1000:g} s",
    "`moving_from`: moves that a process remembers for this": f"{moving.MOVES_REMEMBERED:,}",
    "`moving_from`: different lines of the log in a minute": f"{moving.MOST_REPORTS}",
}


def test_fixed_limits_are_those_of_the_page() -> None:
    """Each with its unit; the page has no other rows."""
    assert dict(table(ROOT / "docs" / "api.md", "Fixed limits")) == LIMITS
