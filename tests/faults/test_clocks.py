"""App processes whose clocks differ by minutes, and a clock that is set back.

The promise: the clock of the process that handles a request decides whether a session has expired.
Clocks that differ by less than the idle timeout end no session that is in use, whichever process
handles the request. The end of an unused session shifts by the difference at most. No clock
brings back a session that was logged out, and none moves its dates back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientSession
from pymongo import MongoClient

from storage.tokens import document_id, from_cookie
from tests.faults.conftest import App, starter
from tests.faults.test_expiry import set_clock, status_of
from webapp.database.mongod import Mongod

MINUTE = 60.0
IDLE_SECONDS = 30 * MINUTE
ABSOLUTE_SECONDS = 120 * MINUTE
DIFFERENCE_SECONDS = 5 * MINUTE


@pytest.fixture(scope="module")
def processes(mongod: Mongod) -> Iterator[tuple[App, App]]:
    """Run two processes: the idle timeout is 30 minutes, the absolute timeout two hours."""
    timeouts = ("--max-age", str(IDLE_SECONDS), "--absolute-timeout", str(ABSOLUTE_SECONDS))
    uri = f"{mongod.uri}/?journal=true"
    with starter() as start:
        yield start(uri, *timeouts), start(uri, *timeouts, driver="motor")


@pytest.fixture
async def apps(processes: tuple[App, App]) -> tuple[App, App]:
    """Reset both clocks."""
    async with ClientSession() as client:
        for app in processes:
            await set_clock(client, app, 0)
    return processes


async def sign_in(client: ClientSession, app: App) -> tuple[str, int]:
    """Create a session; return its token and the cookie's Max-Age."""
    async with client.post(f"{app.base}/login?owner=ada") as answer:
        assert answer.status == 200
        cookie = answer.cookies["session"]
        return cookie.value, int(cookie["max-age"])


def stored(mongod: Mongod, token: str) -> dict[str, Any]:
    """Return the document of a session."""
    identifier = document_id(from_cookie(token) or b"")
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        (document,) = client["faults"]["sessions"].find({"_id": identifier})
        return document


async def test_sessions_in_use_do_not_expire_when_clocks_differ_by_minutes(
    apps: tuple[App, App], mongod: Mongod
) -> None:
    """Two processes, one five minutes ahead, serve a session for longer than its idle timeout."""
    early, late = apps
    async with ClientSession() as client:
        token, _ = await sign_in(client, early)

        for passed_minutes in range(0, 110, 10):
            await set_clock(client, early, passed_minutes * MINUTE)
            await set_clock(client, late, passed_minutes * MINUTE + DIFFERENCE_SECONDS)
            before = stored(mongod, token)
            assert await status_of(client, late, token) == 200
            assert await status_of(client, early, token, "POST", f"/set?n={passed_minutes}") == 200
            after = stored(mongod, token)
            assert after["expires_at"] >= before["expires_at"]
            assert after["last_seen_at"] >= before["last_seen_at"]


async def test_end_of_an_unused_session_shifts_by_the_difference_at_most(
    apps: tuple[App, App],
) -> None:
    """The process that is ahead ends the session five minutes earlier, the other one in time."""
    early, late = apps
    async with ClientSession() as client:
        token, _ = await sign_in(client, early)

        # One minute before its end by one clock, four minutes after it by the other.
        await set_clock(client, early, IDLE_SECONDS - MINUTE)
        await set_clock(client, late, IDLE_SECONDS - MINUTE + DIFFERENCE_SECONDS)

        assert await status_of(client, late, token) == 401
        assert await status_of(client, early, token) == 200


async def test_session_created_by_a_clock_ahead_ends_by_every_clock(apps: tuple[App, App]) -> None:
    """Created five minutes in the future, it ends five minutes later by the other clock."""
    early, late = apps
    async with ClientSession() as client:
        await set_clock(client, late, DIFFERENCE_SECONDS)
        token, max_age = await sign_in(client, late)
        assert max_age == IDLE_SECONDS

        await set_clock(client, early, IDLE_SECONDS + DIFFERENCE_SECONDS - MINUTE)
        assert await status_of(client, early, token) == 200
        await set_clock(client, early, 2 * (IDLE_SECONDS + DIFFERENCE_SECONDS))
        assert await status_of(client, early, token) == 401


async def test_absolute_timeout_holds_when_clocks_differ(apps: tuple[App, App]) -> None:
    """A session in use ends two hours after its creation, whichever process handles the request."""
    early, late = apps
    async with ClientSession() as client:
        token, _ = await sign_in(client, early)
        for minutes in range(0, 120, 10):
            await set_clock(client, early, minutes * MINUTE)
            assert await status_of(client, early, token) == 200

        await set_clock(client, late, ABSOLUTE_SECONDS - MINUTE + DIFFERENCE_SECONDS)
        await set_clock(client, early, ABSOLUTE_SECONDS + MINUTE)

        assert await status_of(client, late, token) == 401
        assert await status_of(client, early, token) == 401


async def test_clock_that_is_set_back_ends_and_restores_no_session(
    apps: tuple[App, App], mongod: Mongod
) -> None:
    """After an hour back, signed-in users can save, and signed-out users stay signed out."""
    app, _ = apps
    async with ClientSession() as client:
        gone, _ = await sign_in(client, app)
        assert await status_of(client, app, gone) == 200
        headers = {"Cookie": f"session={gone}"}
        async with client.post(f"{app.base}/logout", headers=headers) as answer:
            assert answer.status == 200
        token, _ = await sign_in(client, app)
        before = stored(mongod, token)

        await set_clock(client, app, -60 * MINUTE)

        assert await status_of(client, app, token) == 200
        assert await status_of(client, app, token, "POST", "/set?n=5") == 200
        after = stored(mongod, token)
        dates = ("created_at", "last_seen_at", "expires_at")
        assert [after[name] for name in dates] == [before[name] for name in dates]
        assert await status_of(client, app, token, "POST", "/renew") == 200
        assert await status_of(client, app, token) == 401
        assert await status_of(client, app, gone) == 401
