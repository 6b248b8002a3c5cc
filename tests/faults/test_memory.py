"""Memory and file descriptors of an app stay constant with many visitors and connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest

from storage.pacing import MOST_UNDER_WAY
from tests.conftest import only_in_full
from tests.faults.conftest import App, Remark, StartApp
from tests.faults.raw import send_all
from tests.waiting import until
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long

FLAT_BYTES = 10 * 1024 * 1024
WRITES_ONE_IN = 10


@pytest.fixture
def app(mongod: Mongod, database_name: str, start_app: StartApp) -> App:
    """Run an app that closes idle connections after half a second."""
    uri = f"{mongod.uri}/?journal=true"
    return start_app(uri, "--database", database_name, "--keepalive", "0.5")


def resident_bytes(app: App) -> int:
    """Return the resident memory of the process."""
    lines = Path(f"/proc/{app.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def descriptors(app: App) -> int:
    """Return the number of files and sockets that the process has open."""
    return len(list(Path(f"/proc/{app.process.pid}/fd").iterdir()))


def port_of(app: App) -> int:
    """Return the port of an app."""
    return int(app.base.rpartition(":")[2])


async def open_sessions(app: App, number: int) -> list[bytes]:
    """Create sessions; return their cookies."""
    cookies: list[bytes] = []

    def note(answer: bytes) -> None:
        assert answer.startswith(b"HTTP/1.1 200"), answer
        cookies.append(answer.split(b"Set-Cookie: ")[1].partition(b";")[0])

    await send_all(
        port_of(app),
        (b"POST /login?owner=%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(number)),
        note,
    )
    return cookies


def requests_of(cookies: list[bytes], number: int) -> Iterator[bytes]:
    """Yield requests of the visitors in turn; every tenth request is a change."""
    for count, cookie in enumerate(islice(cycle(cookies), number)):
        line = b"GET /read"
        if count % WRITES_ONE_IN == 0:
            line = b"POST /set?n=%d" % count
        yield line + b" HTTP/1.1\r\nHost: a\r\nCookie: " + cookie + b"\r\n\r\n"


def is_answered(answer: bytes) -> None:
    """Check that a request was served."""
    assert answer.startswith(b"HTTP/1.1 200"), answer


@pytest.mark.parametrize(
    ("requests", "visitors"),
    [
        pytest.param(60_000, 6_000, id="sixty thousand"),
        pytest.param(1_000_000, 100_000, id="a million", marks=only_in_full),
    ],
)
async def test_memory_and_descriptors_stay_constant_over_many_requests(
    app: App, requests: int, visitors: int, remark: Remark
) -> None:
    """After a tenth of the requests, which fills every cache, memory grows by 10 MB at most."""
    cookies = await open_sessions(app, visitors)
    await send_all(port_of(app), requests_of(cookies, requests // 10), is_answered)
    before, opened = resident_bytes(app), descriptors(app)

    await send_all(port_of(app), requests_of(cookies, requests), is_answered)

    grown = resident_bytes(app) - before
    remark(f"{requests} requests of {visitors} visitors: memory grew by {grown / 1e6:.1f} MB")
    assert grown < FLAT_BYTES
    # The driver's pool opens a connection for each command that is under way at the same time.
    until(lambda: descriptors(app) <= opened + 2 * MOST_UNDER_WAY)


async def test_idle_connections_leave_no_memory_and_no_descriptors(app: App) -> None:
    """38 times 300 connections send one request, then idle: an hour with a keep-alive of 95 s."""
    (cookie,) = await open_sessions(app, 1)
    request = next(requests_of([cookie], 1))

    async def generation() -> int:
        pairs = []
        # A hundred at a time: the queue of a listening socket is not longer.
        for _ in range(3):
            fresh = [await asyncio.open_connection("127.0.0.1", port_of(app)) for _ in range(100)]
            for _reader, writer in fresh:
                # At once: an idle connection is closed, also before its first request.
                writer.write(request)
            for reader, _writer in fresh:
                is_answered(await reader.readuntil(b"}"))
            pairs += fresh
        held = descriptors(app)
        for reader, writer in pairs:
            assert await reader.read() == b""  # the app has closed it
            writer.close()
        return held

    await generation()
    before, opened = resident_bytes(app), descriptors(app)
    for _ in range(37):
        assert await generation() > opened + 200

    assert resident_bytes(app) - before < FLAT_BYTES
    # The driver's pool opens a connection for each command that is under way at the same time.
    assert descriptors(app) <= opened + 2 * MOST_UNDER_WAY
