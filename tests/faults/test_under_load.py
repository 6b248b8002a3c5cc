"""A thousand connections, and a frozen MongoDB: every request is answered in time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

import pytest
from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from pymongo import AsyncMongoClient

from tests.conftest import only_in_full
from tests.faults.conftest import OPERATION_TIMEOUT_SECONDS, Remark, StartApp
from tests.faults.raw import send_all
from tests.faults.test_memory import (
    FLAT_BYTES,
    is_answered,
    open_sessions,
    port_of,
    requests_of,
    resident_bytes,
)
from tests.waiting import until
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long

CONNECTIONS = 1000
WARMING_SECONDS = 5.0
FROZEN_SECONDS = 10.0
VISITORS = 64


def requests_for(seconds: float, cookies: list[bytes]) -> Iterator[bytes]:
    """Yield requests of the visitors in turn until the time has passed; every tenth is a change."""
    ends_at = time.monotonic() + seconds
    for request in requests_of(cookies, 10**9):
        if time.monotonic() > ends_at:
            return
        yield request


@pytest.mark.parametrize("seconds", [10.0, pytest.param(30.0, marks=only_in_full)])
async def test_thousand_connections_are_served_with_constant_memory(
    server: Mongod, start_app: StartApp, remark: Remark, seconds: float
) -> None:
    """No request is refused meanwhile; the queue is long enough for all of them."""
    app = start_app(server.uri)
    cookies = await open_sessions(app, CONNECTIONS)
    served = 0

    def count(answer: bytes) -> None:
        nonlocal served
        is_answered(answer)
        served += 1

    await send_all(
        port_of(app), requests_for(WARMING_SECONDS, cookies), count, connections=CONNECTIONS
    )
    before, served = resident_bytes(app), 0
    await send_all(port_of(app), requests_for(seconds, cookies), count, connections=CONNECTIONS)

    grown = resident_bytes(app) - before
    remark(
        f"{CONNECTIONS} connections, {seconds:.0f} s: {served} requests, none failed;"
        f" memory grew by {grown / 1e6:.1f} MB"
    )
    assert served > CONNECTIONS
    assert grown < FLAT_BYTES


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_frozen_mongodb_is_answered_with_503_in_time_until_it_recovers(
    server: Mongod, start_app: StartApp, driver: str, remark: Remark
) -> None:
    """Frozen for ten seconds under load; requests are served as soon as MongoDB answers again."""
    app = start_app(server.uri, driver=driver)
    cookies = await open_sessions(app, VISITORS)
    asked: list[Asked] = []

    async with _client() as client:
        tasks = [asyncio.create_task(_visit(client, app.base, c, asked)) for c in cookies]
        await asyncio.to_thread(until, lambda: len(asked) > 10 * VISITORS)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_SECONDS)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        answers_from = await _answers_again(server)
        await asyncio.gather(*tasks)

    slowest = max(one.seconds for one in asked)
    refused = [one for one in asked if one.status == 503]
    later = [one for one in asked if one.begun > answers_from]
    remark(
        f"{driver}, frozen for {FROZEN_SECONDS:.0f} s: {len(asked)} requests, {len(refused)} of"
        f" them 503, the slowest answer after {slowest:.1f} s; {len(later)} served afterwards"
    )
    assert {one.status for one in asked} == {200, 503}
    assert len(refused) >= VISITORS
    assert slowest < 2 * OPERATION_TIMEOUT_SECONDS
    assert {one.status for one in later} == {200}


class Asked(NamedTuple):
    """One request: its start, the time until its answer, and its status."""

    begun: float
    seconds: float
    status: int


def _client() -> ClientSession:
    return ClientSession(cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=0))


async def _visit(client: ClientSession, base: str, cookie: bytes, asked: list[Asked]) -> None:
    """Read and change in turn until the time has passed."""
    ends_at = time.monotonic() + FROZEN_SECONDS + 5
    for method, path in cycle([("GET", "/read"), ("POST", "/set?n=1")]):
        begun = time.monotonic()
        if begun > ends_at:
            return
        headers = {"Cookie": cookie.decode()}
        async with client.request(method, base + path, headers=headers) as answer:
            await answer.read()
        asked.append(Asked(begun, time.monotonic() - begun, answer.status))


async def _answers_again(server: Mongod) -> float:
    """Return the time at which MongoDB answers a client that is not the app."""
    async with AsyncMongoClient[dict[str, object]](server.uri) as client:
        await client.admin.command("ping")
    return time.monotonic()
