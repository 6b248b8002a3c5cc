"""A single mongod is killed, slow, disconnected during an answer, or out of connections."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.faults.conftest import OPERATION_TIMEOUT_SECONDS, Report, StartApp
from tests.faults.load import VISITORS, Load
from tests.faults.proxy import Proxy
from tests.processes import free_port
from tests.waiting import until
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long


def through(proxy: Proxy) -> str:
    """Return the address of the server behind a proxy."""
    return f"mongodb://127.0.0.1:{proxy.port}/?journal=true"


def restarted(server: Mongod) -> None:
    """Kill a server like a power failure, and start it again with its data."""
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    server.start()


async def kill_under_load(server: Mongod, start_app: StartApp, times: int) -> Load:
    """Kill and restart the server several times under load."""
    uri = f"{server.uri}/?journal=true"
    apps = start_app(uri, driver="motor"), start_app(uri, driver="pymongo")
    async with Load([app.base for app in apps]) as load:
        for _ in range(times):
            await load.answers(200)
            await asyncio.to_thread(restarted, server)
            await load.answers(200)
    return load


@pytest.mark.parametrize(("times", "shown"), [(1, "once"), (8, "8 times")])
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    server: Mongod, start_app: StartApp, report: Report, times: int, shown: str
) -> None:
    """After each restart; `journal=true` makes an acknowledgement mean "on the disk"."""
    load = await kill_under_load(server, start_app, times)

    report(f"single mongod killed with SIGKILL, {shown}", load.record, VISITORS)
    load.record.assert_in_order()


async def test_slow_answers_are_awaited_and_too_slow_ones_refused_in_time(
    proxy: Proxy, start_app: StartApp, report: Report
) -> None:
    """With 0.2 s every request is served, with 7 s it gets a 503 in time; then all are served."""
    apps = start_app(through(proxy), driver="motor"), start_app(through(proxy), driver="pymongo")
    async with Load([app.base for app in apps]) as load:
        proxy.delay(0.2)
        await load.answers(300)
        assert load.record.refused == 0
        report("every answer 0.2 s late", load.record, VISITORS)

        proxy.delay(OPERATION_TIMEOUT_SECONDS + 2)
        begun = time.monotonic()
        await asyncio.to_thread(until, lambda: load.record.refused >= VISITORS)
        assert time.monotonic() - begun < OPERATION_TIMEOUT_SECONDS + 3

        proxy.heal()
        await load.answers(300)

    report("every answer 7 s late, then normal again", load.record, VISITORS)
    load.record.assert_in_order()


async def test_connections_broken_in_mid_answer_lose_nothing(
    proxy: Proxy, start_app: StartApp, report: Report
) -> None:
    """If one answer in thirty is cut off, reads are repeated; saves are repeated or refused."""
    apps = start_app(through(proxy), driver="motor"), start_app(through(proxy), driver="pymongo")
    seen = 0

    def one_of_thirty(_sent: bytes) -> bool:
        nonlocal seen
        seen += 1
        return seen % 30 == 0

    async with Load([app.base for app in apps]) as load:
        proxy.break_answers(one_of_thirty)
        await load.answers(2000)
        proxy.break_answers(lambda _sent: False)

    report("connections broken in the middle of an answer, 1 in 30", load.record, VISITORS)
    load.record.assert_in_order()


async def test_server_out_of_connections_serves_again_when_some_are_free(
    mongod_binary: Path, tmp_path: Path, start_app: StartApp, report: Report
) -> None:
    """Strangers use all 40 connections: the connected app is served, a new app answers 503."""
    arguments = ("--maxConns", "40")
    with (
        Mongod(mongod_binary, tmp_path / "small", port=free_port(), arguments=arguments) as small,
        ExitStack() as strangers,
    ):
        early = start_app(small.uri)
        # Without renewals: each needs its own connection, and none may be left.
        async with Load([early.base], renewals=0) as load:
            await load.answers(100)
            await asyncio.to_thread(_take_every_connection, small, strangers)
            await load.answers(300)
            assert load.record.refused == 0
            # It serves only after its first attempt to create the indexes has timed out.
            late = await asyncio.to_thread(start_app, small.uri)
            async with ClientSession() as client:
                headers = {"Cookie": f"session={load.visits[0].token}"}
                async with client.get(f"{late.base}/read", headers=headers) as answer:
                    assert answer.status == 503
                    assert answer.headers["Retry-After"] == "1"
                async with client.get(f"{late.base}/plain") as answer:
                    assert answer.status == 200
            strangers.close()
            load.bases.append(late.base)
            await load.answers(300)

    report("all connections of the server in use", load.record, VISITORS)


def _take_every_connection(server: Mongod, strangers: ExitStack) -> None:
    """Open connections until the server closes a new one at once."""
    for _ in range(200):
        stranger = strangers.enter_context(
            socket.create_connection(("127.0.0.1", server.port), timeout=0.3)
        )
        try:
            if stranger.recv(1) == b"":
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return
    raise AssertionError("the server took 200 connections")
