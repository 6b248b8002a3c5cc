"""MongoDB deletes expired sessions, on a server whose TTL monitor runs every second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from pymongo import MongoClient

from tests.faults.conftest import App, StartApp
from tests.processes import free_port
from tests.waiting import until
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long

MAX_AGE_SECONDS = 600
EACH = 60


@pytest.fixture
def ttl_server(mongod_binary: Path, tmp_path: Path) -> Iterator[Mongod]:
    """Run a mongod whose TTL monitor runs every second instead of every minute."""
    arguments = ("--setParameter", "ttlMonitorSleepSecs=1")
    with Mongod(mongod_binary, tmp_path / "ttl", port=free_port(), arguments=arguments) as server:
        yield server


@pytest.fixture
def app(ttl_server: Mongod, start_app: StartApp) -> App:
    """Run an app whose idle timeout is ten minutes of its clock."""
    return start_app(f"{ttl_server.uri}/?journal=true", "--max-age", str(MAX_AGE_SECONDS))


def ttl_metrics(server: Mongod) -> dict[str, int]:
    """Return how many passes the TTL monitor made, and how many sessions it deleted."""
    with MongoClient[dict[str, Any]](server.uri) as client:
        ttl = client.admin.command("serverStatus")["metrics"]["ttl"]
    return {name: int(ttl[name]) for name in ("passes", "deletedDocuments")}


def wait_for_two_passes(server: Mongod) -> None:
    """Return when a pass of the TTL monitor has ended that began after this call."""
    goal = ttl_metrics(server)["passes"] + 2
    until(lambda: ttl_metrics(server)["passes"] >= goal)


async def opened(client: ClientSession, app: App, number: int) -> list[str]:
    """Create sessions; return their tokens."""
    tokens = []
    for owner in range(number):
        async with client.post(f"{app.base}/login?owner={owner}") as answer:
            assert answer.status == 200
            tokens.append(answer.cookies["session"].value)
    return tokens


async def set_clock(client: ClientSession, app: App, ahead_seconds: float) -> None:
    """Set the app's clock ahead of the server's, or behind it."""
    async with client.post(f"{app.base}/clock?ahead={ahead_seconds}") as answer:
        assert answer.status == 200


async def status_of(
    client: ClientSession, app: App, token: str, method: str = "GET", path: str = "/read"
) -> int:
    """Send one request of a session."""
    async with client.request(method, app.base + path, headers=cookie_of(token)) as answer:
        if answer.status == 200:
            data = await answer.json()
            assert data["left"] == data["right"]
        return answer.status


async def is_saved(client: ClientSession, app: App, token: str, number: int) -> bool:
    """Change a session; return whether its end was moved, which the cookie acknowledges."""
    headers = cookie_of(token)
    async with client.post(f"{app.base}/set?n={number}", headers=headers) as answer:
        assert answer.status in (200, 401)
        # Without a cookie, the session ended between load and save: nothing was written.
        return "session" in answer.cookies


def cookie_of(token: str) -> dict[str, str]:
    """Return the header with the session's cookie."""
    return {"Cookie": f"session={token}"}


async def test_ttl_monitor_deletes_only_expired_sessions(ttl_server: Mongod, app: App) -> None:
    """Sessions that expired a minute ago go; sessions with a minute left and new ones stay."""
    async with ClientSession() as client:
        await set_clock(client, app, -(MAX_AGE_SECONDS + 60))
        expired = await opened(client, app, EACH)
        await set_clock(client, app, -(MAX_AGE_SECONDS - 60))
        nearly = await opened(client, app, EACH)
        await set_clock(client, app, 0)
        new = await opened(client, app, EACH)

        await asyncio.to_thread(wait_for_two_passes, ttl_server)

        assert ttl_metrics(ttl_server)["deletedDocuments"] == EACH
        assert {await status_of(client, app, token) for token in expired} == {401}
        assert {await status_of(client, app, token) for token in nearly + new} == {200}


async def test_session_saved_during_ttl_deletion_is_kept_or_ended_as_a_whole(
    ttl_server: Mongod, app: App
) -> None:
    """900 sessions expire within nine seconds, and each is saved once, around its end.

    If the answer to the save has a cookie, the session is there afterwards. If the save came too
    late, it wrote nothing, and the whole session is gone.
    """
    async with ClientSession() as client:
        tokens: list[str] = []
        for seconds in range(1, 10):
            await set_clock(client, app, -(MAX_AGE_SECONDS - seconds))
            tokens += await opened(client, app, 100)
        await set_clock(client, app, 0)

        kept: set[str] = set()
        ended: set[str] = set()

        async def save_at_its_end(token: str, chance: int) -> None:
            # Of each hundred, some are saved early, most in the second in which they expire.
            when = begun + chance / 100 * 10
            await asyncio.sleep(max(0, when - time.monotonic()))
            (kept if await is_saved(client, app, token, chance) else ended).add(token)

        begun = time.monotonic()
        order = [(token, (7 * number) % 100) for number, token in enumerate(tokens)]
        await asyncio.gather(*(save_at_its_end(token, chance) for token, chance in order))
        await asyncio.to_thread(wait_for_two_passes, ttl_server)

        assert {await status_of(client, app, token) for token in kept} == {200}
        assert {await status_of(client, app, token) for token in ended} == {401}
        assert min(len(kept), len(ended)) > 100
        with MongoClient[dict[str, Any]](ttl_server.uri) as server:
            stored = list(server["faults"]["sessions"].find())
        assert len(stored) == len(kept)
        whole = {"_id", "created_at", "last_seen_at", "expires_at", "max_age", "persistent"}
        assert all(whole <= set(document) for document in stored)
        assert {len(document["values"]) for document in stored} == {3}
